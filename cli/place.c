/* moetuner place: the table of its subcommands. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/place.h"

static const struct {
    struct command command;
    bool stops; /* looks at stop_fd; the others end at once on SIGINT and SIGTERM */
} COMMANDS[] = {
    {{"solve", place_command_solve, "finds a placement"}, true},
    {{"score", place_command_score, "says what a placement is worth"}, false},
    {{"compare", place_command_compare, "solves with every method, and scores on unseen text"},
     true},
    {{"diff", place_command_diff, "lists the moves from one placement to another"}, false},
    {{"explain", place_command_explain, "draws a placement's loads and traffic"}, false},
    {{"replay", place_command_replay, "plays a trace as requests, every step timed"}, true},
    {{"import", place_command_import, "reads loads or placements of other systems"}, false},
    {{"export", place_command_export, "writes a placement as other systems take it"}, false},
    {{"generate", place_command_generate, "makes traces with given statistics"}, false},
};

#define N_COMMANDS (sizeof COMMANDS / sizeof *COMMANDS)

static void print_help(FILE *out)
{
    fputs("Usage: moetuner place COMMAND [OPTION...]\n\n"
          "Which rank should hold which expert. Commands:\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", COMMANDS[i].command.name, COMMANDS[i].command.help);
    fputs("\n`moetuner place COMMAND --help` lists its options. Exit status: 0, or 2 if it could "
          "not run.\n\nMethods (--method):\n",
          out);
    for (const struct place_method *m = PLACE_METHODS; m->name; m++)
        fprintf(out, "  %-16s %s\n", m->name, m->help);
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

int command_place(int argc, char **argv, int stop_fd)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], COMMANDS[i].command.name)) {
            if (!COMMANDS[i].stops)
                unblock_signals();
            return COMMANDS[i].command.run(argc - 1, argv + 1, stop_fd);
        }
    fprintf(stderr, "moetuner place: no command \"%.100s\"; expected ", argv[1]);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "%s%s", i ? ", " : "", COMMANDS[i].command.name);
    fputs("\n", stderr);
    return 2;
}
