/* One line an event on standard error: `level event key=value key="va lue"`, with an sd-daemon "<N>" priority prefix when
 * standard error is the journal (JOURNAL_STREAM is set). Called from programs only, never from libraries.
 * Any thread; a line is one write(2). */
#ifndef MT_API_LOG_H
#define MT_API_LOG_H

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_init(const char *program, enum log_level level); /* before other threads start; program is borrowed */

/* `event` is one lower-case word (`request_done`). `format` gives the `key=value` pairs; a value that may hold blanks,
 * quotes or control characters is passed through log_quote first. */
void log_event(enum log_level level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Writes text as a quoted value ("..." with \" \\ \n \xNN escapes), truncated to fit size; returns out. */
const char *log_quote(char *out, unsigned size, const char *text);

#endif
