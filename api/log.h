/* One line an event on standard error: `program: level event key=value key="va lue"`, or, when
 * standard error is the journal (which knows the program), `<N>level event ...` with the sd-daemon
 * priority. Called from programs only, never from libraries. Any thread; a line is one write(2).
 *
 * Nothing waits for standard error: a line that it does not take at once (its reader does not read,
 * the disk is full, nobody is there any more) is dropped and counted, and the first line that is
 * taken again comes after `log_resumed dropped=N`. */
#ifndef MT_API_LOG_H
#define MT_API_LOG_H

#include <stdint.h>

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

/* Lines lost since the program began. */
uint64_t log_dropped(void);

/* Before other threads start; program is borrowed. Without it: "moetuner", LOG_LEVEL_INFO. */
void log_init(const char *program, enum log_level level);

/* `event` is one lower-case word (`request_done`). `format` gives the `key=value` pairs ("" for
 * none); a value that may hold blanks, quotes or control characters is passed through log_quote
 * first. A line of more than 4 KiB is cut and ends in "...". Keeps errno. */
void log_event(enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes text as a quoted value ("..." with \" \\ \n \xNN escapes), truncated to fit size without
 * cutting an escape or a UTF-8 character; returns out. Pure. */
const char *log_quote(char *out, unsigned size, const char *text);

#endif
