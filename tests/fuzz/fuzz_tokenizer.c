/* Any bytes as tokenizer.json; what loads must encode and decode. */
#include <stdlib.h>

#include "daemon/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Hello, aaab  World!\r\n 12345 <x> caf\xc3\xa9 e\xcc\x81 \xe4\xb8\xad";
    struct tokenizer *t;
    struct mt_err err;
    struct buf out;
    int32_t *ids;
    size_t n;

    if (tokenizer_parse((const char *)data, size, "fuzz", &t, &err))
        return 0;
    buf_init(&out, 1 << 20);
    if (!tokenizer_encode(t, text, sizeof(text) - 1, 3, 1000, &ids, &n, &err)) {
        if (tokenizer_decode(t, ids, n, false, &out, &err))
            abort();
        free(ids);
    }
    buf_done(&out);
    tokenizer_free(t);
    return 0;
}
