/* Any bytes as the body of any frame: the first byte picks the decoder. */
#include "api/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct wire_step step;
    static struct wire_result result;
    struct wire_map map = {0};
    struct wire_hello hello;
    struct wire_ready ready;
    struct wire_heartbeat beat;
    struct wire_text text;
    struct wire_header header;
    struct mt_err err;

    if (!size)
        return 0;
    switch (*data++ % 8) {
    case 0: wire_get_step(data, size - 1, &step, &err); break;
    case 1: wire_get_result(data, size - 1, &result, &err); break;
    case 2: wire_get_map(data, size - 1, &map, &err); break;
    case 3: wire_get_hello(data, size - 1, &hello, &err); break;
    case 4: wire_get_ready(data, size - 1, &ready, &err); break;
    case 5: wire_get_heartbeat(data, size - 1, &beat, &err); break;
    case 6: wire_get_text(data, size - 1, &text, &err); break;
    default:
        if (size > WIRE_HEADER_BYTES)
            wire_get_header(data, &header, &err);
    }
    wire_map_done(&map);
    return 0;
}
