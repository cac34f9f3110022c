/* A subcommand of `moetuner`; the table is in main.c. */
#ifndef MT_CLI_COMMAND_H
#define MT_CLI_COMMAND_H

/* argv[0] is the subcommand's name. stop_fd is readable once the user wants to stop (SIGINT,
 * SIGTERM). Returns the exit status: 0, 1 (it ran, and the answer is no), 2 (it could not run). */
struct command {
    const char *name;
    int (*run)(int argc, char **argv, int stop_fd);
    const char *help; /* one line */
};

int command_bench(int argc, char **argv, int stop_fd);
int command_eval(int argc, char **argv, int stop_fd);
int command_place(int argc, char **argv, int stop_fd);

#endif
