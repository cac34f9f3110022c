/* moetuner: the command-line tool; one file per subcommand. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>

#include "api/version.h"
#include "cli/command.h"

static const struct command COMMANDS[] = {
    {"bench", command_bench, "loads a running server, and measures throughput and latencies"},
    {"eval", command_eval, "compares a model's answers with golden ones, on a job of its own"},
    {"place", command_place, "decides which rank holds which expert, and says what it is worth"},
};

#define N_COMMANDS (sizeof COMMANDS / sizeof *COMMANDS)

static void print_help(FILE *out)
{
    fputs("Usage: moetuner COMMAND [OPTION...]\n\nCommands:\n", out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", COMMANDS[i].name, COMMANDS[i].help);
    fputs(
        "\n`moetuner COMMAND --help` lists its options; `moetuner --version` tells the version.\n",
        out);
}

/* SIGINT and SIGTERM become readable here, so that a command ends its job before it ends itself. */
static int open_stop_fd(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return -1;
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int main(int argc, char **argv)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "help")) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("moetuner " MT_VERSION);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], COMMANDS[i].name))
            return COMMANDS[i].run(argc - 1, argv + 1, open_stop_fd());
    fprintf(stderr, "moetuner: no command \"%s\"; `moetuner --help` lists them\n", argv[1]);
    return 2;
}
