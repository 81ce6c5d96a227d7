/*
 * The victims of the soak, cheap enough to be made by the thousand.
 * usage: victim [-g FILE]... [-p PID] OPTION... : takes what it is told to, says "ready", and sleeps until its stdin ends.
 * -g enters the cgroup with this cgroup.procs first; -p ends with this parent.
 * -a BYTES private anonymous memory (-H in huge pages); -s BYTES shared anonymous memory; -t BYTES of a memfd or, with -w, of this file,
 * written and not mapped; -f FILE maps it privately and reads it; -m COUNT mappings of one page each that cannot be merged; -n COUNT
 * sleeping threads; -l mlockall; -L the main thread leaves (-n 1 or more); -b writes to its memory all the time; -c CPU only there;
 * -x MICROSECONDS exits so long after a line on stdin; -z exits at once; -S uses a CPU until it is killed.
 * -k COUNT children with as much memory, -K so many more, which are forked all the time by those who are there, until all are made.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, GROUPS = 8, BACKSTOP_SECONDS = 300 };

static const char *groups[GROUPS], *tmpfs_file, *mapped_file;
static int group_count, parent, cpu = -1, mappings, threads, busy, huge, locked, leave, zombie, spinning, children, more;
static long exit_after = -1;
static size_t anon, shared, tmpfs;
static volatile char *memory;

static void fail(const char *what)
{
	fprintf(stderr, "victim: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void enter_groups(void)
{
	for (int i = 0; i < group_count; i++) {
		int fd = open(groups[i], O_WRONLY);
		if (fd < 0 || write(fd, "0", 1) != 1)
			fail(groups[i]);
		close(fd);
	}
}

static volatile char *take(size_t size, int flags)
{
	char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	if (area == MAP_FAILED)
		fail("mmap");
	madvise(area, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += PAGE)
		((volatile char *)area)[at] = 1;
	return area;
}

static void write_file(void)
{
	static char block[1 << 16];
	int fd = tmpfs_file ? open(tmpfs_file, O_CREAT | O_WRONLY, 0600) : memfd_create("victim", MFD_CLOEXEC);

	if (fd < 0)
		fail("a file in memory");
	for (size_t at = 0; at < tmpfs; at += sizeof(block))
		if (write(fd, block, sizeof(block)) != sizeof(block))
			fail("write");
}

static void map_file(void)
{
	struct stat found;
	int fd = open(mapped_file, O_RDONLY);

	if (fd < 0 || fstat(fd, &found) != 0)
		fail(mapped_file);
	volatile char *area = mmap(NULL, found.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (area == MAP_FAILED)
		fail("mmap");
	for (off_t at = 0; at < found.st_size; at += PAGE)
		(void)area[at];
}

static void take_mappings(void)
{
	volatile char *area = take((size_t)mappings * PAGE, MAP_PRIVATE);

	for (int number = 1; number < mappings; number += 2)
		if (mprotect((char *)area + (size_t)number * PAGE, PAGE, PROT_READ) != 0)
			fail("mprotect");
}

static void *sleep_on(void *nothing)
{
	(void)nothing;
	for (;;)
		pause();
	return NULL;
}

static void *wait_for_the_end(void *nothing)
{
	char byte;

	(void)nothing;
	while (read(STDIN_FILENO, &byte, 1) > 0 || errno == EINTR)
		;
	_exit(0);
	return NULL;
}

static void start(void *(*what)(void *))
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 64 << 10);
	if ((errno = pthread_create(&thread, &small, what, NULL)) != 0)
		fail("pthread_create");
}

/* Members of a group: `made` is counted by all. Each ends by itself if nobody ends it. */
static void fork_on(int ready)
{
	int *made = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char byte = 0;

	if (made == MAP_FAILED)
		fail("mmap");
	for (int i = 0; i < children; i++) {
		int pid = fork();
		if (pid < 0)
			fail("fork");
		if (pid == 0) {
			alarm(BACKSTOP_SECONDS);
			memory = take(anon, MAP_PRIVATE);
			if (write(ready, &byte, 1) != 1)
				exit(1);
			break;
		}
	}
	if (more)
		signal(SIGCHLD, SIG_IGN);
	while (more) {
		if (__atomic_fetch_add(made, 1, __ATOMIC_RELAXED) >= more)
			break;
		int pid = fork();
		if (pid == 0) {
			alarm(BACKSTOP_SECONDS);
			memory = take(anon, MAP_PRIVATE);
		}
		usleep(2000);
	}
	for (;;)
		pause();
}

static void group_of_processes(void)
{
	int ready[2];
	char byte;

	if (pipe(ready) != 0)
		fail("pipe");
	int first = fork();
	if (first < 0)
		fail("fork");
	if (first == 0) {
		/* It is the members' first parent, and one of them. The one outside keeps the lab's pipe and is no member. */
		prctl(PR_SET_PDEATHSIG, 0);
		alarm(BACKSTOP_SECONDS);
		enter_groups();
		memory = take(anon, MAP_PRIVATE);
		fork_on(ready[1]);
	}
	close(ready[1]);
	for (int i = 0; i < children; i++)
		if (read(ready[0], &byte, 1) != 1)
			fail("a member");
	printf("ready %d\n", first);
	fflush(stdout);
	wait_for_the_end(NULL);
}

static void be_there(void)
{
	char byte;

	printf("ready %d\n", getpid());
	fflush(stdout);
	if (zombie)
		_exit(0);
	if (exit_after >= 0 && read(STDIN_FILENO, &byte, 1) == 1) {
		struct timespec pause = { exit_after / 1000000, exit_after % 1000000 * 1000 };
		nanosleep(&pause, NULL);
		_exit(0);
	}
	if (leave) {
		start(wait_for_the_end);
		pthread_exit(NULL);
	}
	if (busy || spinning)
		start(wait_for_the_end);
	while (busy)
		for (size_t at = 0; at < anon; at += PAGE)
			memory[at]++;
	for (volatile unsigned long turn = 0; spinning; turn++)
		;
	wait_for_the_end(NULL);
}

int main(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "g:p:a:Hs:t:w:f:m:n:lLbc:x:zSk:K:")) != -1) {
		switch (option) {
		case 'g':
			if (group_count == GROUPS)
				return 2;
			groups[group_count++] = optarg;
			break;
		case 'p': parent = atoi(optarg); break;
		case 'a': anon = strtoull(optarg, NULL, 10); break;
		case 'H': huge = 1; break;
		case 's': shared = strtoull(optarg, NULL, 10); break;
		case 't': tmpfs = strtoull(optarg, NULL, 10); break;
		case 'w': tmpfs_file = optarg; break;
		case 'f': mapped_file = optarg; break;
		case 'm': mappings = atoi(optarg); break;
		case 'n': threads = atoi(optarg); break;
		case 'l': locked = 1; break;
		case 'L': leave = 1; break;
		case 'b': busy = 1; break;
		case 'c': cpu = atoi(optarg); break;
		case 'x': exit_after = atol(optarg); break;
		case 'z': zombie = 1; break;
		case 'S': spinning = 1; break;
		case 'k': children = atoi(optarg); break;
		case 'K': more = atoi(optarg); break;
		default: return 2;
		}
	}
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (parent && getppid() != parent)
		return 1;
	setpriority(PRIO_PROCESS, 0, 0); /* not the worker's */
	prctl(PR_SET_NAME, spinning ? "soak-hog" : "soak-victim");
	int score = open("/proc/self/oom_score_adj", O_WRONLY);
	if (score >= 0) {
		(void)!write(score, "900", 3);
		close(score);
	}
	if (children)
		group_of_processes();
	enter_groups();
	if (cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) != 0)
			fail("sched_setaffinity");
	}
	if (locked && mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
		fail("mlockall");
	if (anon)
		memory = take(anon, MAP_PRIVATE);
	if (shared)
		take(shared, MAP_SHARED);
	if (tmpfs)
		write_file();
	if (mapped_file)
		map_file();
	if (mappings)
		take_mappings();
	for (int i = 0; i < threads; i++)
		start(sleep_on);
	be_there();
	return 0;
}
