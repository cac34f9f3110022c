#include "cli/bench_fetch.h"

#include "api/log.h"
#include "daemon/json.h"

#define MAX_REPLY ((size_t)64 << 20)

static size_t take(char *bytes, size_t size, size_t n, void *user)
{
    return buf_append(user, bytes, size * n) ? 0 : size * n;
}

void bench_fetch_prepare(CURL *easy, const char *url, int64_t timeout_ms)
{
    curl_easy_setopt(easy, CURLOPT_URL, url);
    curl_easy_setopt(easy, CURLOPT_PROXY, "");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
}

void bench_fetch_message(const struct buf *reply, char *out, size_t n)
{
    const char *text = reply->len ? (const char *)reply->data : "";
    json_t *root = json_loadb(text, reply->len, 0, NULL);
    const json_t *error = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    char first[80];

    snprintf(first, sizeof first, "%.*s", (int)(reply->len < 79 ? reply->len : 79), text);
    log_quote(out, n, message ? message : first);
    json_decref(root);
}

static int verdict(CURL *easy, CURLcode code, const char *detail, const char *url,
                   const struct buf *reply, json_t **ret, struct mt_err *reterr)
{
    char message[300];
    long status = 0;
    int rc;

    if (code)
        return mt_error(reterr, MT_EIO, "cannot reach %s: %s", url,
                        *detail ? detail : curl_easy_strerror(code));
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (status != 200) {
        bench_fetch_message(reply, message, sizeof message);
        return mt_error(reterr, MT_EPROTO, "%s: expected status 200, found %ld: %s", url, status,
                        message);
    }
    rc = json_read(reply->data, reply->len, BENCH_JSON_DEPTH, ret, reterr);
    return rc ? mt_error_prefix(reterr, "%s", url) : 0;
}

int bench_fetch(const char *base, const char *path, json_t *body, int64_t timeout_ms, json_t **ret,
                struct mt_err *reterr)
{
    struct curl_slist *headers = curl_slist_append(NULL, "Content-Type: application/json");
    char detail[CURL_ERROR_SIZE] = "", url[2048];
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    CURL *easy = curl_easy_init();
    struct buf reply;
    int rc;

    buf_init(&reply, MAX_REPLY);
    snprintf(url, sizeof url, "%s%s", base, path);
    if (!headers || !easy || (body && !text)) {
        rc = mt_error(reterr, MT_ENOMEM, "out of memory");
    } else {
        bench_fetch_prepare(easy, url, timeout_ms);
        curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, detail);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, &reply);
        if (text) {
            curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
            curl_easy_setopt(easy, CURLOPT_POSTFIELDS, text);
        }
        rc = verdict(easy, curl_easy_perform(easy), detail, url, &reply, ret, reterr);
    }
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    free(text);
    json_decref(body);
    buf_done(&reply);
    return rc;
}
