/* Log lines as they arrive on standard error, and quoted values read back by a reader of its own.
 */
#include "api/log.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static FILE *captured;
static int real_stderr;

static void capture_begin(void)
{
    captured = tmpfile();
    assert_non_null(captured);
    real_stderr = dup(STDERR_FILENO);
    assert_true(real_stderr >= 0);
    assert_true(dup2(fileno(captured), STDERR_FILENO) >= 0);
}

/* Takes away the time before each line of ours, which must be there. */
static void untimed(char *text)
{
    static const char SHAPE[] = "dddd-dd-ddTdd:dd:dd.dddZ ";
    char *out = text;

    while (*text) {
        char *end = strchr(text, '\n');
        size_t len = end ? (size_t)(end - text) + 1 : strlen(text), at = 0;

        if (*text != '<') { /* what the journal gets has none */
            for (; at < sizeof SHAPE - 1; at++)
                assert_true(SHAPE[at] == 'd' ? isdigit((unsigned char)text[at])
                                             : SHAPE[at] == text[at]);
        }
        memmove(out, text + at, len - at);
        out += len - at;
        text += len;
    }
    *out = 0;
}

/* What was written since capture_begin, cut to size. */
static void capture_end(char *text, size_t size)
{
    size_t n;

    assert_true(dup2(real_stderr, STDERR_FILENO) >= 0);
    close(real_stderr);
    rewind(captured);
    n = fread(text, 1, size - 1, captured);
    text[n] = 0;
    fclose(captured);
    untimed(text);
}

static void test_line_and_threshold(void **state)
{
    char text[512];

    (void)state;
    unsetenv("JOURNAL_STREAM");
    capture_begin();
    log_init("test", LOG_LEVEL_INFO);
    errno = EDOM;
    log_event(LOG_LEVEL_INFO, "started", "port=%d model=%s", 80, "tiny");
    log_event(LOG_LEVEL_DEBUG, "hidden", "a=1");
    log_event(LOG_LEVEL_ERROR, "stopped", "%s", "");
    log_event(LOG_LEVEL_WARN, "odd", "text=%s", "two\nlines\r");
    assert_int_equal(errno, EDOM);
    capture_end(text, sizeof text);
    assert_string_equal(text, "test: info started port=80 model=tiny\n"
                              "test: error stopped \n"
                              "test: warn odd text=two lines \n");
}

/* Standard error as a pipe with little room; returns its reading end. */
static int pipe_begin(void)
{
    int fd[2];

    assert_int_equal(pipe(fd), 0);
    assert_true(fcntl(fd[1], F_SETPIPE_SZ, 4096) >= 4096);
    real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd[1], STDERR_FILENO) >= 0);
    close(fd[1]);
    return fd[0];
}

static void pipe_end(void)
{
    assert_true(dup2(real_stderr, STDERR_FILENO) >= 0);
    close(real_stderr);
    log_init("test", LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_INFO, "restored",
              "n=1"); /* tells what was lost, so that no other test does */
}

/* A reader that does not read: lines are lost and counted, none is cut, nobody waits; then it is
 * said how many. Through a descriptor of our own, and through one that cannot be opened anew. */
static void test_blocked_pipe(void **state)
{
    static char text[65536];
    uint64_t lost, had = log_dropped();
    int fd = pipe_begin(), kept = 0;
    char expected[64], *line, *rest;
    ssize_t n;

    (void)state;
    log_init("test", LOG_LEVEL_INFO);
    for (int i = 0; i < 1000; i++)
        log_event(LOG_LEVEL_INFO, "line", "text=0123456789012345678901234567890123456789");
    lost = log_dropped() - had;
    assert_true(lost > 0 && lost < 1000);
    n = read(fd, text, sizeof text - 1);
    assert_true(n > 0);
    log_event(LOG_LEVEL_INFO, "again", "n=1");
    n += read(fd, text + n, sizeof text - 1 - (size_t)n);
    text[n] = 0;
    untimed(text);
    for (rest = text; (line = strsep(&rest, "\n")) && !strncmp(line, "test: info line ", 16);
         kept++)
        assert_string_equal(line, "test: info line text=0123456789012345678901234567890123456789");
    assert_int_equal(kept + lost, 1000);
    snprintf(expected, sizeof expected, "test: warn log_resumed dropped=%llu",
             (unsigned long long)lost);
    assert_string_equal(line, expected);
    assert_string_equal(rest, "test: info again n=1\n");
    close(fd); /* nobody reads any more */
    had = log_dropped();
    log_event(LOG_LEVEL_INFO, "unheard", "n=1");
    assert_int_equal(log_dropped(), had + 1);
    pipe_end();
}

/* The socket of a journal. */
static void test_blocked_socket(void **state)
{
    uint64_t had = log_dropped();
    int fd[2];

    (void)state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd[0], STDERR_FILENO) >= 0);
    log_init("test", LOG_LEVEL_INFO);
    for (int i = 0; i < 100000; i++)
        log_event(LOG_LEVEL_INFO, "line", "n=1");
    assert_true(log_dropped() > had);
    close(fd[0]);
    close(fd[1]);
    pipe_end();
}

/* A disk without room. */
static void test_full_device(void **state)
{
    uint64_t had = log_dropped();
    int fd = open("/dev/full", O_WRONLY);

    (void)state;
    assert_true(fd >= 0);
    real_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    close(fd);
    log_init("test", LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_INFO, "line", "n=1");
    log_event(LOG_LEVEL_INFO, "line", "n=1");
    assert_int_equal(log_dropped(), had + 2);
    pipe_end();
}

/* A disk that fills up in the middle of a line: the next line that is taken begins at its own. */
static void test_torn_line(void **state)
{
    struct rlimit limit, small;
    char text[512];

    (void)state;
    capture_begin();
    log_init("test", LOG_LEVEL_INFO);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 81;
    log_event(LOG_LEVEL_INFO, "first", "n=1");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    log_event(LOG_LEVEL_INFO, "second", "text=0123456789");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    log_event(LOG_LEVEL_INFO, "third", "n=1");
    capture_end(text, sizeof text);
    assert_string_equal(text, "test: info first n=1\n"
                              "test: info\n"
                              "test: warn log_resumed dropped=1\n"
                              "test: info third n=1\n");
    log_init("test", LOG_LEVEL_INFO);
}

static void test_long_lines_are_cut(void **state)
{
    static char value[10000], text[20000];
    size_t len;

    (void)state;
    for (size_t n = 4000; n < 4200; n++) {
        memset(value, 'x', n);
        value[n] = 0;
        capture_begin();
        log_init("test", LOG_LEVEL_INFO);
        log_event(LOG_LEVEL_ERROR, "long", "v=%s", value);
        capture_end(text, sizeof text);
        len = strlen(text);
        assert_true(len <= 4096);
        assert_int_equal(text[len - 1], '\n');
        if (strlen("test: error long v=") + n + 1 > len)
            assert_string_equal(text + len - 4, "...\n");
    }
}

static void test_journal_priority_only_on_the_journal(void **state)
{
    char text[512], stream[64];
    struct stat st;

    (void)state;
    capture_begin();
    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init("test", LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_WARN, "here", "a=1");
    snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino + 1);
    setenv("JOURNAL_STREAM", stream, 1);
    log_init("test", LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_WARN, "here", "a=1");
    setenv("JOURNAL_STREAM", "nonsense", 1);
    log_init("test", LOG_LEVEL_INFO);
    log_event(LOG_LEVEL_WARN, "here", "a=1");
    unsetenv("JOURNAL_STREAM");
    capture_end(text, sizeof text);
    assert_string_equal(text, "<4>warn here a=1\ntest: warn here a=1\ntest: warn here a=1\n");
}

static void *writer(void *arg)
{
    for (int i = 0; i < 200; i++)
        log_event(LOG_LEVEL_ERROR, "line", "who=%c text=%s", *(char *)arg,
                  "0123456789012345678901234567890123456789");
    return NULL;
}

static void test_lines_of_threads_stay_whole(void **state)
{
    static char text[1 << 17];
    pthread_t threads[4];
    char *line, *rest = text;
    int lines = 0;

    (void)state;
    capture_begin();
    log_init("test", LOG_LEVEL_INFO);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, writer, &"abcd"[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    capture_end(text, sizeof text);
    while ((line = strsep(&rest, "\n")) && *line) {
        char expected[128];

        snprintf(expected, sizeof expected,
                 "test: error line who=%c text=0123456789012345678901234567890123456789", line[21]);
        assert_string_equal(line, expected);
        lines++;
    }
    assert_int_equal(lines, 800);
}

/* Reads a quoted value back; returns the bytes, or -1 where it is not a whole one. */
static int unquote(const char *in, uint8_t *out)
{
    int n = 0;

    if (*in++ != '"')
        return -1;
    while (*in && *in != '"') {
        unsigned value;

        if (*in != '\\') {
            if ((unsigned char)*in < 0x20)
                return -1;
            out[n++] = (uint8_t)*in++;
        } else if (in[1] == 'n') {
            out[n++] = '\n';
            in += 2;
        } else if (in[1] == 'x' && sscanf(in + 2, "%2x", &value) == 1) {
            out[n++] = (uint8_t)value;
            in += 4;
        } else if (in[1] == '"' || in[1] == '\\') {
            out[n++] = (uint8_t)in[1];
            in += 2;
        } else
            return -1;
    }
    return in[0] == '"' && !in[1] ? n : -1;
}

static void test_quote_round_trip_at_every_size(void **state)
{
    uint32_t r = 5;

    (void)state;
    for (int round = 0; round < 500; round++) {
        char text[40], out[200];
        uint8_t back[200];
        size_t len = 0;
        int last = 0;

        while (len < sizeof text - 1) {
            r = r * 1664525u + 1013904223u;
            text[len] = (char)(r >> 24);
            len += text[len] != 0;
        }
        text[len] = 0;
        for (unsigned size = 3; size <= sizeof out; size++) {
            int n;

            memset(out, '#', sizeof out);
            assert_ptr_equal(log_quote(out, size, text), out);
            assert_true(strlen(out) < size);
            n = unquote(out, back);
            assert_true(n >= last); /* whole at each size, and never less of it */
            assert_memory_equal(back, text, (size_t)n);
            last = n;
        }
        assert_int_equal(last, len);
    }
}

static void test_quote_keeps_characters_whole(void **state)
{
    char out[16];

    (void)state;
    assert_string_equal(log_quote(out, 6, "a\u20acb"), "\"a\"");
    assert_string_equal(log_quote(out, 7, "a\u20acb"), "\"a\u20ac\"");
    assert_string_equal(log_quote(out, 16, "\xff\u00e9\t"), "\"\\xff\u00e9\\x09\"");
    assert_string_equal(log_quote(out, 2, "abc"), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_and_threshold),
        cmocka_unit_test(test_blocked_pipe),
        cmocka_unit_test(test_blocked_socket),
        cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_torn_line),
        cmocka_unit_test(test_long_lines_are_cut),
        cmocka_unit_test(test_journal_priority_only_on_the_journal),
        cmocka_unit_test(test_lines_of_threads_stay_whole),
        cmocka_unit_test(test_quote_round_trip_at_every_size),
        cmocka_unit_test(test_quote_keeps_characters_whole),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
