/* The tokenizer as a filter, for tokenizer_compare.py.
 *
 *     tokenizer_cli TOKENIZER.JSON < requests > replies
 *
 * A request is a line "OP FLAGS LENGTH" and LENGTH bytes: OP e encodes text; d decodes ids (int32,
 * native order) at once, s byte by byte (FLAGS 1: special tokens skipped); b encodes LENGTH bytes
 * FLAGS times and says how many seconds it took. A reply is a line "ok LENGTH" and LENGTH bytes
 * (ids or text), or "error STATUS text". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/tokenizer.h"

#define MAX_IDS (TOKENIZER_MAX_INPUT + 64)

static void reply(const void *bytes, size_t n)
{
    printf("ok %zu\n", n);
    if (n) /* bytes may be NULL */
        fwrite(bytes, 1, n, stdout);
}

static int encode(const struct tokenizer *t, unsigned flags, const char *text, size_t n,
                  struct mt_err *err)
{
    int32_t *ids;
    size_t count;
    int status = tokenizer_encode(t, text, n, flags, MAX_IDS, &ids, &count, err);

    if (!status) {
        reply(ids, count * sizeof(*ids));
        free(ids);
    }
    return status;
}

static int stream(const struct tokenizer *t, bool skip, const int32_t *ids, size_t n,
                  struct buf *out)
{
    struct detok detok = {0};
    const uint8_t *bytes;
    size_t i, k, len = 0;

    for (i = 0; i < n; i++) {
        bytes = tokenizer_bytes(t, ids[i], &len);
        if (!bytes)
            return MT_EINVAL;
        for (k = 0; k < len && !(skip && tokenizer_special(t, ids[i])); k++)
            detok_push(&detok, bytes + k, 1, out);
    }
    return detok_flush(&detok, out);
}

static int decode(const struct tokenizer *t, char op, bool skip, const int32_t *ids, size_t n,
                  struct mt_err *err)
{
    struct buf out;
    int status;

    buf_init(&out, 1u << 30);
    if (op == 'd')
        status = tokenizer_decode(t, ids, n, skip, &out, err);
    else if ((status = stream(t, skip, ids, n, &out)) != 0)
        mt_error(err, status, "streamed decoding failed");
    if (!status)
        reply(out.data, out.len);
    buf_done(&out);
    return status;
}

static int bench(const struct tokenizer *t, unsigned times, const char *text, size_t n,
                 struct mt_err *err)
{
    struct timespec from, to;
    char line[64];
    int32_t *ids;
    size_t count;
    int status;

    clock_gettime(CLOCK_MONOTONIC, &from);
    for (; times; times--) {
        status = tokenizer_encode(t, text, n, TOKENIZER_PARSE_SPECIAL, MAX_IDS, &ids, &count, err);
        if (status)
            return status;
        free(ids);
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    snprintf(line, sizeof(line), "%.6f",
             (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec));
    reply(line, strlen(line));
    return 0;
}

static int serve(const struct tokenizer *t, char op, unsigned flags, void *bytes, size_t n)
{
    struct mt_err err = {0};
    int status;

    if (op == 'e')
        status = encode(t, flags, bytes, n, &err);
    else if (op == 'b')
        status = bench(t, flags, bytes, n, &err);
    else
        status = decode(t, op, flags & 1, bytes, n / sizeof(int32_t), &err);
    if (status)
        printf("error %d %s\n", status, err.text);
    return fflush(stdout);
}

int main(int argc, char **argv)
{
    struct mt_err err = {0};
    struct tokenizer *t;
    unsigned flags;
    void *bytes;
    size_t n;
    char op;
    int bad = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: tokenizer_cli TOKENIZER.JSON\n");
        return 2;
    }
    if (tokenizer_load(argv[1], &t, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    while (!bad && scanf(" %c %u %zu", &op, &flags, &n) == 3 && getchar() == '\n') {
        bytes = malloc(n + 1);
        bad = !bytes || fread(bytes, 1, n, stdin) != n || serve(t, op, flags, bytes, n);
        free(bytes);
    }
    tokenizer_free(t);
    return bad;
}
