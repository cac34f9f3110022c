/* Any bytes as tokenizer_config.json, and, cut at new lines, as roles and contents of messages. */
#include <stdlib.h>
#include <string.h>

#include "daemon/chat.h"

#define MAX_MESSAGES 6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A known template if the bytes are none, so that rendering is reached. */
static struct chat_template *load(const uint8_t *data, size_t size)
{
    static const char mistral[] =
        "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"chat_template\": \"{{ bos_token }}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) "
        "%}{{ raise_exception('Conversation roles must alternate "
        "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' "
        "%}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and "
        "assistant roles are supported!') }}{% endif %}{% endfor %}\"}";
    struct chat_template *c;
    struct mt_err err;

    if (!chat_parse((const char *)data, size, "fuzz", &c, &err))
        return c;
    if (chat_parse(mistral, sizeof(mistral) - 1, "mistral", &c, &err) ||
        strcmp(chat_name(c), "mistral") != 0)
        abort();
    return c;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct chat_message messages[MAX_MESSAGES];
    struct chat_template *c = load(data, size);
    char *text = malloc(size + 1), *rest = text, *role;
    struct mt_err err;
    struct buf out;
    size_t n = 0;

    if (!text)
        abort();
    memcpy(text, data, size);
    text[size] = 0;
    while (n < MAX_MESSAGES && (role = strsep(&rest, "\n")) != NULL && rest) {
        messages[n].role = n % 2 ? "assistant" : n || *role ? "user" : "system";
        messages[n++].content = role;
    }
    buf_init(&out, 1 << 16);
    chat_render(c, messages, n, size & 1, &out, &err);
    chat_stops(c);
    buf_done(&out);
    chat_free(c);
    free(text);
    return 0;
}
