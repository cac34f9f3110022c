/* The two texts made from an option table: --help and the manual page. */
#include <string.h>

#include "api/option.h"

#define HELP_INDENT 8
#define HELP_WIDTH 80

/* "--name=ARG", as it would be typed. */
static void print_usage(const struct option *o, FILE *out, const char *dash)
{
    fprintf(out, "%s%s%s", dash, dash, o->name);
    if (o->type == OPTION_CHOICE) {
        for (int i = 0; o->choices[i]; i++)
            fprintf(out, "%c%s", i ? '|' : '=', o->choices[i]);
    } else if (o->type != OPTION_FLAG)
        fprintf(out, "=%s", o->arg ? o->arg : "VALUE");
}

/* Help and default, broken at blanks. */
static void print_wrapped(const char *text, FILE *out, size_t *column)
{
    while (*text) {
        const size_t blanks = strspn(text, " \n"), word = strcspn(text + blanks, " \n");

        text += blanks;
        if (!word)
            break;
        if (*column > HELP_INDENT && *column + 1 + word > HELP_WIDTH)
            *column = 0;
        if (!*column)
            *column = (size_t)fprintf(out, "\n%*s", HELP_INDENT, "") - 1;
        else if (*column > HELP_INDENT)
            *column += (size_t)fprintf(out, " ");
        *column += (size_t)fprintf(out, "%.*s", (int)word, text);
        text += word;
    }
}

void option_help(const struct option *table, FILE *out)
{
    const char *section = "";

    for (const struct option *o = table; o->name; o++) {
        size_t column = HELP_INDENT;

        if (o->section && strcmp(o->section, section)) {
            fprintf(out, "%s%s:\n", *section ? "\n" : "", o->section);
            section = o->section;
        }
        fprintf(out, "  ");
        print_usage(o, out, "-");
        fprintf(out, "\n%*s", HELP_INDENT, "");
        print_wrapped(o->help, out, &column);
        if (o->value && o->type != OPTION_FLAG) {
            char text[OPTION_MAX_VALUE];

            snprintf(text, sizeof text, "Default: %s.", o->value);
            print_wrapped(text, out, &column);
        }
        fprintf(out, "\n");
    }
}

/* man(7) reads \ as an escape, and . or ' at the start of a line as a request. */
static void print_roff(const char *text, FILE *out)
{
    char before = '\n';

    for (; *text; before = *text++) {
        if (before == '\n' && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
}

void option_manual(const struct option *table, FILE *out)
{
    const char *section = "";

    fputs(".SH OPTIONS\n", out);
    for (const struct option *o = table; o->name; o++) {
        if (o->section && strcmp(o->section, section)) {
            fprintf(out, ".SS %s\n", o->section);
            section = o->section;
        }
        fputs(".TP\n.B ", out);
        print_usage(o, out, "\\-");
        fputc('\n', out);
        print_roff(o->help, out);
        if (o->value && o->type != OPTION_FLAG) {
            fputs("\nDefault: ", out);
            print_roff(o->value, out);
            fputc('.', out);
        }
        fputc('\n', out);
    }
}
