/* A job's files: a directory of mode 0700 under TMPDIR with the control socket and OpenMPI's
 * session, and one under /dev/shm for OpenMPI's segments, so that whatever mpirun leaves behind is
 * removed with two directories.
 *
 * Each directory is locked (flock) as long as we live. A daemon that was killed leaves its
 * directories unlocked: the next one removes those of the same user that are older than a minute (a
 * younger one may be about to be locked). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "daemon/job_impl.h"

#define DIR_PREFIX "moetuner-job-"
#define SHM_BASE "/dev/shm"
#define STALE_SECONDS 5

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    remove(path); /* what cannot be removed stays; the rest goes on */
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Opens and locks a directory that is ours alone; -1 if it is not, or somebody holds it. */
static int lock_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) || st.st_uid != geteuid() || flock(fd, LOCK_EX | LOCK_NB)) {
        close(fd);
        return -1;
    }
    return fd;
}

static void sweep(const char *base)
{
    char path[JOB_PATH];
    const struct dirent *e;
    DIR *d = opendir(base);
    struct stat st;
    int fd;

    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, DIR_PREFIX, strlen(DIR_PREFIX)))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", base, e->d_name) >= (int)sizeof path)
            continue;
        if (lstat(path, &st) || !S_ISDIR(st.st_mode) || time(NULL) - st.st_mtime < STALE_SECONDS)
            continue;
        fd = lock_dir(path);
        if (fd < 0)
            continue;
        remove_tree(path);
        close(fd);
    }
    if (d)
        closedir(d);
}

static int make_dir(const char *base, char path[JOB_PATH], int *ret_lock, struct mt_err *reterr)
{
    int n = snprintf(path, JOB_PATH, "%s/" DIR_PREFIX "XXXXXX", base), lock;

    if (n >= JOB_PATH || !mkdtemp(path)) {
        path[0] = 0;
        return mt_error(reterr, MT_EIO, "job directory in %.200s: %s", base,
                        n >= JOB_PATH ? "the path is too long" : strerror(errno));
    }
    lock = lock_dir(path);
    if (lock < 0) {
        remove_tree(path);
        path[0] = 0;
        return mt_error(reterr, MT_EIO, "job directory in %.200s: cannot be locked", base);
    }
    *ret_lock = lock;
    return 0;
}

/* TMPDIR, unless a socket's path under it would be longer than the system allows. */
static const char *job_base(void)
{
    const char *base = getenv("TMPDIR");
    size_t rest = strlen("/" DIR_PREFIX "XXXXXX/control") + 1;

    if (!base || !*base || strlen(base) + rest > sizeof((struct sockaddr_un *)0)->sun_path)
        return "/tmp";
    return base;
}

static int listen_at(const char *path, uint32_t backlog, int *ret_fd, struct mt_err *reterr)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof a.sun_path)
        return mt_error(reterr, MT_ELIMIT,
                        "control socket: expected a path below %zu bytes, found %s",
                        sizeof a.sun_path, path);
    memcpy(a.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, (int)backlog)) {
        int rc = mt_error(reterr, MT_EIO, "control socket %s: %s", path, strerror(errno));

        if (fd >= 0)
            close(fd);
        return rc;
    }
    *ret_fd = fd;
    return 0;
}

int job_dir_open(struct job *j, struct mt_err *reterr)
{
    const char *base = job_base();
    int rc;

    sweep(base);
    sweep(SHM_BASE);
    rc = make_dir(base, j->dir, &j->dir_lock, reterr);
    if (rc)
        return rc;
    if (make_dir(SHM_BASE, j->shm, &j->shm_lock, NULL))
        j->shm[0] = 0; /* no such place: the segments go to the job directory */
    if (snprintf(j->socket, sizeof j->socket, "%s/control", j->dir) >= (int)sizeof j->socket)
        rc = mt_error(reterr, MT_ELIMIT, "control socket: the path %.200s is too long", j->dir);
    else
        rc = listen_at(j->socket, j->options.ranks + JOB_PENDING, &j->listen, reterr);
    if (rc)
        job_dir_close(j);
    return rc;
}

static void drop_dir(char path[JOB_PATH], int *lock)
{
    if (path[0])
        remove_tree(path);
    path[0] = 0;
    if (*lock >= 0)
        close(*lock);
    *lock = -1;
}

void job_dir_close(struct job *j)
{
    if (j->listen >= 0)
        close(j->listen);
    j->listen = -1;
    j->socket[0] = 0;
    drop_dir(j->shm, &j->shm_lock);
    drop_dir(j->dir, &j->dir_lock);
}
