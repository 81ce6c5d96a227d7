/*
 * The floor: the calls of the kernel's own selftest (tools/testing/selftests/mm/mrelease_test.c) and nothing else.
 * usage: floor PID REAP_DELAY_MS; says "ready", waits for a line, then
 *   SIGKILL through the pidfd -> wait up to REAP_DELAY_MS for the exit -> process_mrelease -> read the RSS
 * and prints: time of the kill, time after the release (both CLOCK_MONOTONIC, ns), errno, resident pages.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PIDFD_SEND_SIGNAL = 424, PIDFD_OPEN = 434, PROCESS_MRELEASE = 448 };

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	int fd = syscall(PIDFD_OPEN, atoi(argv[1]), 0);
	if (fd < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;

	struct pollfd exited = { .fd = fd, .events = POLLIN };
	long long killed = now();
	if (syscall(PIDFD_SEND_SIGNAL, fd, SIGKILL, NULL, 0) != 0)
		return 1;
	poll(&exited, 1, atoi(argv[2]));
	int error;
	do
		error = syscall(PROCESS_MRELEASE, fd, 0) == 0 ? 0 : errno;
	while (error == EAGAIN || error == EINTR);

	char path[64];
	long pages = 0;
	snprintf(path, sizeof(path), "/proc/%s/statm", argv[1]);
	FILE *statm = fopen(path, "r");
	if (statm && fscanf(statm, "%*d %ld", &pages) != 1)
		pages = 0;
	printf("%lld %lld %d %ld\n", killed, now(), error, pages);
	return 0;
}
