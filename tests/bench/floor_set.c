/*
 * The floor for a whole cgroup: cgroup.kill, and a pidfd for each process to reap it by.
 * usage: floor_set PROCS KILL REAP_DELAY_MS; PROCS is its cgroup.procs, KILL its cgroup.kill or "-" (then each is signalled).
 * It says "ready", waits for a line, then
 *   a pidfd each -> kill -> wait up to REAP_DELAY_MS for all exits -> process_mrelease for who has not exited -> wait for all exits
 * and prints a line after the release: time of its first step, of the kill and after the release (CLOCK_MONOTONIC, ns), 0, how many
 * process_mrelease calls succeeded, 0; and when all have exited: that time.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PIDFD_SEND_SIGNAL = 424, PIDFD_OPEN = 434, PROCESS_MRELEASE = 448, MOST = 65536 };

static struct pollfd processes[MOST];
static int count;

static long long now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

static void open_all(const char *procs)
{
	FILE *file = fopen(procs, "r");
	int pid;

	while (file && count < MOST && fscanf(file, "%d", &pid) == 1) {
		int fd = syscall(PIDFD_OPEN, pid, 0);
		if (fd >= 0)
			processes[count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
	}
	if (file)
		fclose(file);
}

/* Waits until all have exited; poll(2) leaves out who has, by a negative descriptor. Returns how many are left. */
static int wait_all(int timeout_ms)
{
	long long deadline = now() + timeout_ms * 1000000LL;
	int left = 0;

	for (int i = 0; i < count; i++)
		left += processes[i].fd >= 0;
	while (left) {
		int rest = timeout_ms < 0 ? -1 : (int)((deadline - now()) / 1000000);
		int ready = poll(processes, count, timeout_ms < 0 ? -1 : rest > 0 ? rest : 0);
		left = 0;
		for (int i = 0; i < count; i++) {
			if (processes[i].fd >= 0 && ready > 0 && processes[i].revents)
				processes[i].fd = -processes[i].fd - 1;
			left += processes[i].fd >= 0;
		}
		if (timeout_ms >= 0 && now() >= deadline)
			break;
	}
	return left;
}

int main(int argc, char **argv)
{
	struct rlimit files;
	int released = 0;

	if (argc != 4)
		return 2;
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;

	long long began = now();
	open_all(argv[1]);
	long long killed = now();
	if (strcmp(argv[2], "-") != 0) {
		int fd = open(argv[2], O_WRONLY);
		if (fd < 0 || write(fd, "1", 1) != 1)
			return 1;
	} else {
		for (int i = 0; i < count; i++)
			syscall(PIDFD_SEND_SIGNAL, processes[i].fd, SIGKILL, NULL, 0);
	}
	if (wait_all(atoi(argv[3]))) {
		for (int i = 0; i < count; i++) {
			if (processes[i].fd < 0)
				continue;
			int error;
			do
				error = syscall(PROCESS_MRELEASE, processes[i].fd, 0) == 0 ? 0 : errno;
			while (error == EAGAIN || error == EINTR);
			released += error == 0;
		}
	}
	printf("%lld %lld %lld 0 %d 0\n", began, killed, now(), released);
	fflush(stdout);
	wait_all(-1);
	printf("%lld\n", now());
	return 0;
}
