#include "api/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int read_all(int fd, char *at, size_t size, size_t *ret_len)
{
    size_t len = 0;
    ssize_t n;

    while (len < size) {
        n = read(fd, at + len, size - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return MT_EIO;
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret_len = len;
    return 0;
}

static int read_open(int fd, const char *path, size_t cap, char **ret, size_t *ret_len,
                     struct mt_err *reterr)
{
    struct stat st;
    char *text;

    if (fstat(fd, &st))
        return mt_error(reterr, MT_EIO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return mt_error(reterr, MT_EINVAL, "%s: expected a regular file", path);
    if ((unsigned long long)st.st_size > cap)
        return mt_error(reterr, MT_ELIMIT, "%s: %lld bytes; expected at most %zu", path,
                        (long long)st.st_size, cap);
    text = malloc((size_t)st.st_size + 1);
    if (!text)
        return mt_error(reterr, MT_ENOMEM, "%s: out of memory for %lld bytes", path,
                        (long long)st.st_size);
    if (read_all(fd, text, (size_t)st.st_size, ret_len)) {
        free(text);
        return mt_error(reterr, MT_EIO, "%s: %s", path, strerror(errno));
    }
    text[*ret_len] = 0;
    *ret = text;
    return 0;
}

int file_read(const char *path, size_t cap, char **ret, size_t *ret_len, struct mt_err *reterr)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), status;

    if (fd < 0)
        return mt_error(reterr, errno == ENOENT ? MT_ENOTFOUND : MT_EIO, "%s: %s", path,
                        strerror(errno));
    status = read_open(fd, path, cap, ret, ret_len, reterr);
    close(fd);
    return status;
}
