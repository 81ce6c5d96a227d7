/*
 * The floor: the calls of the kernel's own selftest (tools/testing/selftests/mm/mrelease_test.c) and nothing else.
 * usage: floor PID REAP_DELAY_MS [PROCS PATH]...; says "ready", waits for a line, then
 *   [boost] -> SIGKILL through the pidfd -> wait up to REAP_DELAY_MS for the exit -> process_mrelease -> read the RSS -> wait for the exit
 * The boost is the agent's: the victim is moved into the cgroup of each PROCS (a cgroup.procs file), seen to be in the cgroup PATH
 * afterwards (a write for a process that exits already succeeds and moves nothing), and its threads get the normal class and every CPU.
 * It prints a line after the release: time of its first step, of the kill and after the release (CLOCK_MONOTONIC, ns), errno, resident
 * pages, 1 where the victim was seen to have moved; and when the victim has exited: that time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* Reads a small file whole; an empty text where that fails. */
static void slurp(const char *path, char *text, size_t size)
{
	int fd = open(path, O_RDONLY);
	ssize_t length = fd < 0 ? 0 : read(fd, text, size - 1);

	text[length > 0 ? length : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

static void free_threads(const char *pid)
{
	char path[64];
	struct sched_param normal = { 0 };
	cpu_set_t all;
	struct dirent *entry;

	memset(&all, 0xff, sizeof(all));
	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	DIR *tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		int tid = atoi(entry->d_name);
		if (tid > 0) {
			sched_setscheduler(tid, SCHED_OTHER, &normal);
			sched_setaffinity(tid, sizeof(all), &all);
		}
	}
	if (tasks)
		closedir(tasks);
}

/* Returns whether the victim was seen in every cgroup that it was moved to. */
static int boost(const char *pid, char **groups, int count)
{
	char path[64], text[8192], wanted[4096];
	int moved = 1;

	for (int i = 0; i < count; i += 2) {
		int fd = open(groups[i], O_WRONLY);
		if (fd >= 0 && write(fd, pid, strlen(pid)) < 0)
			moved = 0;
		if (fd >= 0)
			close(fd);
	}
	free_threads(pid);
	snprintf(path, sizeof(path), "/proc/%s/cgroup", pid);
	slurp(path, text, sizeof(text));
	for (int i = 0; i < count; i += 2) {
		snprintf(wanted, sizeof(wanted), ":%s\n", groups[i + 1]);
		if (!strstr(text, wanted))
			moved = 0;
	}
	return moved;
}

int main(int argc, char **argv)
{
	if (argc < 3 || argc % 2 == 0)
		return 2;
	int fd = syscall(PIDFD_OPEN, atoi(argv[1]), 0);
	if (fd < 0)
		return 1;
	puts("ready");
	fflush(stdout);
	if (getchar() == EOF)
		return 1;

	struct pollfd exited = { .fd = fd, .events = POLLIN };
	long long began = now();
	int moved = argc > 3 ? boost(argv[1], argv + 3, argc - 3) : 0;
	long long killed = now();
	if (syscall(PIDFD_SEND_SIGNAL, fd, SIGKILL, NULL, 0) != 0)
		return 1;
	poll(&exited, 1, atoi(argv[2]));
	int error;
	do
		error = syscall(PROCESS_MRELEASE, fd, 0) == 0 ? 0 : errno;
	while (error == EAGAIN || error == EINTR);

	char path[64], text[256];
	long pages = 0;
	snprintf(path, sizeof(path), "/proc/%s/statm", argv[1]);
	slurp(path, text, sizeof(text));
	sscanf(text, "%*d %ld", &pages);
	printf("%lld %lld %lld %d %ld %d\n", began, killed, now(), error, pages, moved);
	fflush(stdout);
	while (poll(&exited, 1, -1) < 0)
		;
	printf("%lld\n", now());
	return 0;
}
