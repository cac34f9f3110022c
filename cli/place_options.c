/* The command lines of `moetuner place`. */
#include <stdlib.h>
#include <string.h>

#include "cli/place.h"

const char *const PLACE_WEIGHTS[] = {"equal", "tokens", NULL};
const char *const PLACE_SEMANTICS[] = {[PLACE_HOME] = "home", [PLACE_FLOW] = "flow", NULL};
const char *const PLACE_HOMES[] = {
    [PLACE_HOMES_LOAD] = "load", [PLACE_HOMES_AFFINITY] = "affinity", NULL};

static const char TERMS[] =
    "\nThe objective, J = sum over scenarios of share x step time / tokens + migration / horizon,\n"
    "in seconds per token; a step's time is the sum over layers of\n"
    "  dense      attention and the rest, on the rank that is home to the most tokens\n"
    "  dispatch   vectors from the tokens' homes to the ranks of their experts: busiest port\n"
    "  compute    the busiest rank: its token-expert pairs, and its experts with a token\n"
    "  combine    results on the way back to the homes: busiest port\n"
    "With --semantics=flow, dispatch is the way from one layer's experts to the next one's, and\n"
    "nothing is combined. In J also\n"
    "  migration  experts copied to new ranks (--from): busiest port, over --horizon tokens\n"
    "  KV moves   prompts' caches on their way to their homes (--homes=affinity)\n";

static int add_word(const char *word, const char *option, const char **list, uint32_t *n,
                    struct mt_err *reterr)
{
    if (*n == PLACE_MAX_SOURCES)
        return mt_error(reterr, MT_ELIMIT, "option %s: expected at most %d files, found more",
                        option, PLACE_MAX_SOURCES);
    list[(*n)++] = word;
    return 0;
}

/* `--NAME=word`, or `--NAME word word ...` up to the next option; *i moves to the last one taken.
 * *ret_taken: argv[*i] is this option. */
static int take_list(int argc, char **argv, int *i, const char *name, const char **list,
                     uint32_t *n, bool *ret_taken, struct mt_err *reterr)
{
    size_t len = strlen(name);
    const char *word = argv[*i] + 2;
    uint32_t before = *n;
    int rc = 0;

    *ret_taken = !strncmp(argv[*i], "--", 2) && !strncmp(word, name, len) &&
                 (!word[len] || word[len] == '=');
    if (!*ret_taken)
        return 0;
    if (word[len] == '=')
        return add_word(word + len + 1, name, list, n, reterr);
    while (!rc && *i + 1 < argc && argv[*i + 1][0] != '-')
        rc = add_word(argv[++*i], name, list, n, reterr);
    if (!rc && *n == before)
        rc = mt_error(reterr, MT_EINVAL, "option %s: expected a file, found none", name);
    return rc;
}

static bool has_row(const struct option *table, const char *name)
{
    while (table->name && strcmp(table->name, name) != 0)
        table++;
    return table->name;
}

static int split_words(int argc, char **argv, const struct option *table, struct place_args *args,
                       struct mt_err *reterr)
{
    static char output[] = "--output";
    bool taken;
    int rc;

    args->argv = calloc((size_t)argc + 1, sizeof *args->argv);
    if (!args->argv)
        return mt_error(reterr, MT_ENOMEM, "out of memory");
    for (int i = 0; i < argc; i++) {
        taken = false;
        rc = 0;
        if (i && has_row(table, "trace"))
            rc = take_list(argc, argv, &i, "trace", args->trace, &args->traces, &taken, reterr);
        if (!rc && i && !taken && has_row(table, "test"))
            rc = take_list(argc, argv, &i, "test", args->test, &args->tests, &taken, reterr);
        if (rc)
            return rc;
        if (!taken)
            args->argv[args->argc++] =
                i && !strcmp(argv[i], "-o") && has_row(table, "output") ? output : argv[i];
    }
    return 0;
}

int place_args_read(int argc, char **argv, const struct option *table, void *config,
                    struct place_args *args, struct mt_err *reterr)
{
    int next, rc;

    memset(args, 0, sizeof *args);
    rc = option_defaults(table, config, reterr);
    if (!rc)
        rc = split_words(argc, argv, table, args, reterr);
    if (!rc)
        rc = option_parse_args(table, config, args->argc, args->argv, &next, reterr);
    if (!rc && next < args->argc)
        rc = mt_error(reterr, MT_EINVAL, "expected options only, found the word %.100s",
                      args->argv[next]);
    return rc;
}

void place_args_done(struct place_args *args)
{
    free(args->argv);
    args->argv = NULL;
}

int place_need(const char *value, const char *option, struct mt_err *reterr)
{
    return value ? 0 : mt_error(reterr, MT_EINVAL, "expected --%s, found none", option);
}

void place_help(const char *name, const struct place_command *command)
{
    printf("Usage: moetuner place %s %s\n\n%s\n\n", name, command->usage, command->about);
    option_help(command->options, stdout);
    if (command->terms)
        printf("\nClusters:\n%s%s", cluster_presets(), TERMS);
}
