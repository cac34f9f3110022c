#include "api/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_LINE 4096 /* bytes, newline included; longer lines end in "..." */

static const struct {
    const char *name, *journal;
} LEVELS[] = {{"error", "<3>"}, {"warn", "<4>"}, {"info", "<6>"}, {"debug", "<7>"}};

/* Written by log_init only, before there are other threads. */
static const char *log_program = "moetuner";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static bool log_to_journal;

/* systemd sets JOURNAL_STREAM=DEVICE:INODE of the journal's stream; a program whose standard error
 * was redirected since then still has it, hence the comparison. */
static bool stderr_is_journal(void)
{
    const char *text = getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    char *end;
    struct stat st;

    if (!text || fstat(STDERR_FILENO, &st))
        return false;
    device = strtoull(text, &end, 10);
    if (end == text || *end != ':')
        return false;
    text = end + 1;
    inode = strtoull(text, &end, 10);
    return end != text && !*end && device == st.st_dev && inode == st.st_ino;
}

void log_init(const char *program, enum log_level level)
{
    log_program = program;
    log_threshold = level;
    log_to_journal = stderr_is_journal();
}

void log_event(enum log_level level, const char *event, const char *format, ...)
{
    char line[LOG_LINE];
    const size_t room = sizeof line - 1; /* for the newline, in place of the NUL */
    const int saved = errno;
    size_t len;
    va_list ap;
    int n;

    if (level > log_threshold)
        return;
    if (log_to_journal)
        n = snprintf(line, room, "%s%s %s", LEVELS[level].journal, LEVELS[level].name, event);
    else
        n = snprintf(line, room, "%s: %s %s", log_program, LEVELS[level].name, event);
    len = n < 0 ? 0 : (size_t)n;
    if (*format && len + 2 < room) {
        line[len++] = ' ';
        va_start(ap, format);
        n = vsnprintf(line + len, room - len, format, ap);
        va_end(ap);
        len += n < 0 ? 0 : (size_t)n;
    }
    if (len >= room) {
        len = room - 1;
        memcpy(line + len - 3, "...", 3);
    }
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' '; /* one event, one line, whatever the caller forgot to quote */
    line[len++] = '\n';
    while (write(STDERR_FILENO, line, len) < 0 && errno == EINTR)
        ;
    errno = saved;
}

/* Bytes of the UTF-8 sequence that text starts with, 0 if it is none. Overlong forms pass: nothing
 * is decoded here, it only keeps truncation from cutting a character. */
static unsigned utf8_length(const unsigned char *text)
{
    unsigned n = text[0] < 0x80 ? 1 : text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;

    if (text[0] >= 0xf8 || (text[0] >= 0x80 && text[0] < 0xc2))
        return 0;
    for (unsigned i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

const char *log_quote(char *out, unsigned size, const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    unsigned len = 1;

    if (size < 3) {
        if (size)
            out[0] = 0;
        return out;
    }
    out[0] = '"';
    while (*in) {
        char unit[5];
        unsigned take = utf8_length(in), n;

        if (*in == '"' || *in == '\\')
            n = (unsigned)snprintf(unit, sizeof unit, "\\%c", *in);
        else if (*in == '\n')
            n = (unsigned)snprintf(unit, sizeof unit, "\\n");
        else if (!take || *in < 0x20 || *in == 0x7f)
            n = (unsigned)snprintf(unit, sizeof unit, "\\x%02x", *in);
        else
            memcpy(unit, in, n = take);
        if (len + n + 2 > size) /* the closing quote and the NUL */
            break;
        memcpy(out + len, unit, n);
        len += n;
        in += take ? take : 1;
    }
    out[len++] = '"';
    out[len] = 0;
    return out;
}
