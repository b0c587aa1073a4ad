/* A file system without flock, for LD_PRELOAD: flock fails with the error number that NO_FLOCK names. */
#include <errno.h>
#include <stdlib.h>

int flock(int descriptor, int operation) {
    (void)descriptor;
    (void)operation;
    errno = atoi(getenv("NO_FLOCK"));
    return -1;
}
