/* Templates are compared by a text in which white space within tags is as sparse as it can be, and
 * an escaped new line within a string is the character. White space outside tags counts: it is part
 * of the prompt. */
#include "daemon/chat_known.h"

static bool is_word(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= 9 && c <= 13);
}

/* A quoted string, with \n made the character that it stands for. Returns what follows it. */
static const char *normalise_string(const char *p, struct buf *out)
{
    char quote = *p;

    do {
        if (p[0] == '\\' && p[1] == 'n') {
            buf_puts(out, "\n");
            p += 2;
        } else if (p[0] == '\\' && p[1]) {
            buf_append(out, p, 2);
            p += 2;
        } else {
            buf_append(out, p++, 1);
        }
    } while (*p && *p != quote);
    if (*p)
        buf_append(out, p++, 1);
    return p;
}

/* The inside of {{ }} or {% %}: white space goes, but between two words, where it becomes one. */
static const char *normalise_tag(const char *p, struct buf *out)
{
    char close = p[1] == '{' ? '}' : '%', last;

    buf_append(out, p, 2);
    p += 2;
    while (*p && !(p[0] == close && p[1] == '}')) {
        if (*p == '\'' || *p == '"') {
            p = normalise_string(p, out);
        } else if (is_blank(*p)) {
            last = out->status ? 0 : (char)out->data[out->len - 1];
            while (is_blank(*p))
                p++;
            if (is_word(last) && is_word(*p))
                buf_puts(out, " ");
        } else {
            buf_append(out, p++, 1);
        }
    }
    return p;
}

int chat_normalise(const char *text, struct buf *out)
{
    while (*text) {
        if (text[0] == '{' && (text[1] == '{' || text[1] == '%'))
            text = normalise_tag(text, out);
        else
            buf_append(out, text++, 1);
    }
    return out->status;
}
