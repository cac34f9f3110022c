/* Any text with the bundled tokenizer, which normalises nothing: the ids give back the text. The
 * first byte says whether special tokens are parsed. Runs in the root of the tree. */
#include <stdlib.h>
#include <string.h>

#include "daemon/tokenizer.h"
#include "daemon/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tokenizer *t;
    struct mt_err err;
    struct buf out;
    int32_t *ids;
    size_t n;
    int status;

    if (!t && tokenizer_load("models/tiny/tokenizer.json", &t, &err))
        abort();
    if (!size)
        return 0;
    status =
        tokenizer_encode(t, (const char *)data + 1, size - 1, data[0] & 3, size, &ids, &n, &err);
    if ((status == 0) != (utf8_check(data + 1, size - 1) == size - 1))
        abort();
    if (status)
        return 0;
    buf_init(&out, 1 << 24);
    if (tokenizer_decode(t, ids, n, false, &out, &err) || out.len != size - 1 ||
        (out.len && memcmp(out.data, data + 1, out.len)))
        abort();
    buf_done(&out);
    free(ids);
    return 0;
}
