// Preloaded into a server by the story `clock-jump`: the wall clock is ahead by as many seconds as the file that
// CLOCK_OFFSET_FILE names says. Nothing but CLOCK_REALTIME is touched, as when somebody sets a machine's clock.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
  int result = (int)syscall(SYS_clock_gettime, clock, time);
  const char *path = clock == CLOCK_REALTIME ? getenv("CLOCK_OFFSET_FILE") : NULL;
  if (result == 0 && path) {
    char text[32] = {0};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
      if (read(file, text, sizeof text - 1) > 0) time->tv_sec += atol(text);
      close(file);
    }
  }
  return result;
}
