#include "api/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE 4096 /* bytes, newline included; longer lines end in "..." */

static const struct {
    const char *name, *journal;
} LEVELS[] = {{"error", "<3>"}, {"warn", "<4>"}, {"info", "<6>"}, {"debug", "<7>"}};

/* Written by log_init only, before there are other threads. */
static const char *log_program = "moetuner";
static enum log_level log_threshold = LOG_LEVEL_INFO;
static bool log_to_journal;
static int log_fd = STDERR_FILENO;

/* Held over a write that does not block, hence for a moment only. */
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t log_lost;      /* lines, in all */
static uint64_t log_lost_told; /* of them, those that a log_resumed has told of */
static bool log_torn;          /* the last line was written in part */

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

/* A pipe or a terminal whose reader does not read must not hold up the program. O_NONBLOCK on the
 * descriptor itself would be shared with whoever gave it to us, so it is opened anew. A file is
 * not: it would get a position of its own, and it never blocks for long. */
static int open_unblocking(void)
{
    struct stat st;
    int fd;

    if (fstat(STDERR_FILENO, &st) || !(S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
        return STDERR_FILENO;
    fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    return fd < 0 ? STDERR_FILENO : fd;
}

void log_init(const char *program, enum log_level level)
{
    log_program = program;
    log_threshold = level;
    log_to_journal = stderr_is_journal();
    if (log_fd != STDERR_FILENO)
        close(log_fd);
    log_fd = open_unblocking();
}

/* Writes it all, at once, or fails. A socket, and what could not be opened anew, is asked first
 * whether it takes a line. */
static bool put(const char *bytes, size_t len)
{
    struct pollfd ready = {.fd = log_fd, .events = POLLOUT};
    ssize_t n;

    if (log_fd == STDERR_FILENO && poll(&ready, 1, 0) <= 0)
        return false;
    do
        n = write(log_fd, bytes, len);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        log_torn = (size_t)n < len;
    return n == (ssize_t)len;
}

static size_t begin_line(char *line, size_t room, enum log_level level, const char *event)
{
    struct timespec now;
    struct tm utc;
    int n;

    if (log_to_journal) { /* which adds the time and the program itself */
        n = snprintf(line, room, "%s%s %s", LEVELS[level].journal, LEVELS[level].name, event);
        return n < 0 ? 0 : (size_t)n;
    }
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    n = snprintf(line, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ %s: %s %s", utc.tm_year + 1900,
                 utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                 now.tv_nsec / 1000000, log_program, LEVELS[level].name, event);
    return n < 0 ? 0 : (size_t)n;
}

/* What was lost is told before the first line that is taken again. */
static bool put_resumed(void)
{
    char line[256];
    size_t len = begin_line(line, sizeof line, LOG_LEVEL_WARN, "log_resumed");

    if (log_torn && !put("\n", 1))
        return false;
    if (log_lost == log_lost_told)
        return true;
    len += (size_t)snprintf(line + len, sizeof line - len, " dropped=%" PRIu64 "\n",
                            log_lost - log_lost_told);
    if (!put(line, len))
        return false;
    log_lost_told = log_lost;
    return true;
}

static void write_line(const char *line, size_t len)
{
    pthread_mutex_lock(&log_lock);
    if (!put_resumed() || !put(line, len))
        log_lost++;
    pthread_mutex_unlock(&log_lock);
}

uint64_t log_dropped(void)
{
    uint64_t n;

    pthread_mutex_lock(&log_lock);
    n = log_lost;
    pthread_mutex_unlock(&log_lock);
    return n;
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
    len = begin_line(line, room, level, event);
    if (*format && len + 2 < room) {
        line[len++] = ' ';
        va_start(ap, format);
        n = vsnprintf(line + len, room - len, format, ap);
        va_end(ap);
        len += n < 0 ? 0 : (size_t)n;
    }
    if (len >= room) {
        len = room - 1;
        memset(line + len - 3, '.', 3);
    }
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' '; /* one event, one line, whatever the caller forgot to quote */
    line[len++] = '\n';
    write_line(line, len);
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
