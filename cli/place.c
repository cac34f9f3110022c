/* moetuner place: the table of its subcommands. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/command.h"
#include "cli/place.h"

static const struct {
    const char *name;
    const struct place_command *command;
    const char *help; /* one line */
    bool stops;       /* looks at stop_fd; the others end at once on SIGINT and SIGTERM */
} COMMANDS[] = {
    {"solve", &PLACE_SOLVE, "finds a placement", true},
    {"score", &PLACE_SCORE, "says what a placement is worth", false},
    {"compare", &PLACE_COMPARE, "solves with every method, and scores on unseen text", true},
    {"diff", &PLACE_DIFF, "lists the moves from one placement to another", false},
    {"explain", &PLACE_EXPLAIN, "draws a placement's loads and traffic", false},
    {"replay", &PLACE_REPLAY, "plays a trace as requests, every step timed", true},
    {"import", &PLACE_IMPORT, "reads loads or placements of other systems", false},
    {"export", &PLACE_EXPORT, "writes a placement as other systems take it", false},
    {"generate", &PLACE_GENERATE, "makes traces with given statistics", false},
};

#define N_COMMANDS (sizeof COMMANDS / sizeof *COMMANDS)

static const char COLUMNS[] =
    "\nColumns:\n"
    "  J          modelled seconds of a token; relative: to the plan in force, else to contiguous\n"
    "  dense ...  J's terms: attention and the rest, dispatch, experts (compute), combine\n"
    "  load       max/mean of the ranks' token-expert pairs, over layers; worst: of a layer\n"
    "  |S|        distinct ranks that serve a token in a layer; remote: those other than its home\n"
    "  local      part of token-expert pairs served at home; active: busiest rank's experts\n"
    "  gap        how far, at most, J is above the least possible, on what was fitted\n";

static const char CLUSTER_FILE[] =
    "\n"
    "A cluster's file (--cluster), JSON; seconds and bytes; two nodes of four, slow network:\n"
    "  {\"ranks_per_node\": 4, \"nodes\": 2,\n"
    "   \"rank_link\": {\"bandwidth\": 300e9, \"latency\": 2e-6},   a rank's port in its node\n"
    "   \"node_link\": {\"bandwidth\": 3.1e9, \"latency\": 5e-6},   a node's to the network\n"
    "   \"flops\": 600e12, \"memory_bandwidth\": 2.8e12}          of one rank\n"
    "Bandwidths are of one direction. Further fields, with what they are without them:\n"
    "  name, node_of_rank ([node of each rank], instead of the first two), slots (of each\n"
    "  rank and layer: n or [n of each rank]), two_level (false; true: the network carries a\n"
    "  vector once per node), exact_combine (false; true: experts' results come back one by\n"
    "  one), migration_share (0.25 of a link), and what was measured instead of derived from\n"
    "  flops, memory_bandwidth and the model: token_expert_seconds, active_expert_seconds,\n"
    "  dense_step_seconds, dense_token_seconds (a layer), dispatch_bytes, combine_bytes (a\n"
    "  vector), kv_bytes (a token), expert_bytes.\n";

static void print_help(FILE *out)
{
    fputs("Usage: moetuner place COMMAND [OPTION...]\n\n"
          "Which rank should hold which expert. Commands:\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].help);
    fputs("\n`moetuner place COMMAND --help` lists its options. Exit status: 0, or 2 if it could "
          "not run.\n\nMethods (--method):\n",
          out);
    for (const struct place_method *m = PLACE_METHODS; m->name; m++)
        fprintf(out, "  %-16s %s\n", m->name, m->help);
    fputs(COLUMNS, out);
    fputs(CLUSTER_FILE, out);
}

/* main.c has blocked what it reads from stop_fd. */
static void unblock_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

/* With options read, or a reason why not; config is zeros or what they say. */
static int run_config(const char *name, const struct place_command *command, void *config, int argc,
                      char **argv, int stop_fd, struct mt_err *reterr)
{
    struct place_args args;
    int rc = place_args_read(argc, argv, command->options, config, &args, reterr);

    if (!rc && *(const bool *)((const char *)config + command->help_offset))
        place_help(name, command);
    else if (!rc)
        rc = command->run(config, &args, stop_fd, reterr);
    place_args_done(&args);
    option_done(command->options, config);
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = mt_error(reterr, MT_EIO, "standard output: cannot write");
    return rc;
}

static int run(const char *name, const struct place_command *command, int argc, char **argv,
               int stop_fd)
{
    void *config = calloc(1, command->config_size);
    struct mt_err err;
    int rc = config ? run_config(name, command, config, argc, argv, stop_fd, &err)
                    : mt_error(&err, MT_ENOMEM, "out of memory");

    free(config);
    if (rc)
        fprintf(stderr, "moetuner place %s: %s\n", name, err.text);
    return rc ? 2 : 0;
}

int command_place(int argc, char **argv, int stop_fd)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], COMMANDS[i].name)) {
            if (!COMMANDS[i].stops)
                unblock_signals();
            return run(COMMANDS[i].name, COMMANDS[i].command, argc - 1, argv + 1, stop_fd);
        }
    fprintf(stderr, "moetuner place: no command \"%.100s\"; expected ", argv[1]);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "%s%s", i ? ", " : "", COMMANDS[i].name);
    fputs("\n", stderr);
    return 2;
}
