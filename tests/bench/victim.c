/*
 * The processes of the bench, one small program without an interpreter, linked statically so that it runs in an empty root, too.
 * usage: victim [-g FILE]... [-p PID] [-r FILE] [-c CPU] [-m COUNT] [-b] [-H] [-i] ROLE ARGUMENT...
 *   hold BYTES         holds so much private anonymous memory, says "ready PID", then sleeps
 *   spin SECONDS       says "ready PID", then uses a whole CPU for at most so long
 *   crowd COUNT BYTES  makes so many processes which hold so much each, says "ready PID...", and ends when all of them have ended
 * -g enters the cgroup with this cgroup.procs first (a crowd's members do, its maker does not); -p ends with this parent; -r says it
 * there and not on stdout; -c only on this CPU; -i SCHED_IDLE; -b keeps writing to its memory; -H takes huge pages; -m adds so many
 * mappings of one page that cannot be merged.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, GROUPS = 8 };

static const char *groups[GROUPS], *report;
static int group_count, parent, cpu = -1, mappings, busy, huge, idle;

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

/* The parent dies: so does this. Called once the parent is the one that counts. */
static void end_with(int pid)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (pid && getppid() != pid)
		exit(1);
}

static void become(void)
{
	enter_groups();
	setpriority(PRIO_PROCESS, 0, 0); /* the bench runs at the agent's priority */
	/* Should memory run out all the same, nobody else is to die of it. */
	int fd = open("/proc/self/oom_score_adj", O_WRONLY);
	if (fd >= 0) {
		(void)!write(fd, "1000", 4);
		close(fd);
	}
	if (cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET(cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set) != 0)
			fail("sched_setaffinity");
	}
}

static void be_idle(void)
{
	struct sched_param none = { 0 };

	if (idle && sched_setscheduler(0, SCHED_IDLE, &none) != 0)
		fail("SCHED_IDLE");
}

static volatile char *take(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	madvise(memory, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += PAGE)
		((volatile char *)memory)[at] = 1;
	return memory;
}

/* Every other page differs in protection, so that the kernel cannot merge them. */
static void take_mappings(void)
{
	volatile char *memory = take((size_t)mappings * PAGE);

	for (int page = 1; page < mappings; page += 2)
		if (mprotect((char *)memory + (size_t)page * PAGE, PAGE, PROT_READ) != 0)
			fail("mprotect");
}

static void say(const char *text)
{
	int fd = report ? open(report, O_WRONLY) : STDOUT_FILENO;

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(report ? report : "stdout");
	if (report)
		close(fd);
}

static void say_ready(void)
{
	char text[32];

	snprintf(text, sizeof(text), "ready %d\n", getpid());
	say(text);
}

static void hold(size_t size)
{
	/* What earlyoom is told to look for: no other process has such a name. */
	prctl(PR_SET_NAME, "~victim");
	become();
	volatile char *memory = take(size);
	if (mappings)
		take_mappings();
	be_idle();
	say_ready();
	while (busy)
		for (size_t at = 0; at < size; at += PAGE)
			memory[at]++;
	for (;;)
		pause();
}

static void spin(int seconds)
{
	prctl(PR_SET_NAME, "hog");
	become();
	be_idle();
	alarm(seconds);
	say_ready();
	for (volatile unsigned long turn = 0;; turn++)
		;
}

/* A member of the crowd: its first parent enters the groups for all and ends, then the maker is its parent. */
static void member(size_t size, int ready, int gate, int maker)
{
	int first = getppid();
	char byte = 0;

	take(size);
	if (write(ready, &byte, 1) != 1)
		exit(1);
	while (read(gate, &byte, 1) == -1 && errno == EINTR)
		;
	while (getppid() == first) /* its files are closed before its children are handed on */
		sched_yield();
	end_with(maker);
	if (write(ready, &byte, 1) != 1)
		exit(1);
	for (;;)
		pause();
}

static void crowd(int count, size_t size)
{
	int ready[2], gate[2], maker = getpid();
	char *text = calloc(count + 1, 12), *end = text, byte;

	prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (!text || pipe(ready) != 0 || pipe(gate) != 0)
		fail("pipe");
	int *pids = mmap(NULL, count * sizeof(int), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (pids == MAP_FAILED)
		fail("mmap");
	int first = fork();
	if (first == 0) {
		end_with(maker);
		become();
		for (int i = 0; i < count; i++) {
			int pid = fork();
			if (pid == 0) {
				close(gate[1]);
				member(size, ready[1], gate[0], maker);
			}
			if (pid < 0)
				fail("fork");
			pids[i] = pid;
		}
		for (int i = 0; i < count; i++)
			if (read(ready[0], &byte, 1) != 1)
				exit(1);
		exit(0);
	}
	close(gate[1]);
	int status = 0;
	if (first < 0 || waitpid(first, &status, 0) != first || status != 0)
		exit(1);
	close(ready[1]);
	for (int i = 0; i < count; i++)
		if (read(ready[0], &byte, 1) != 1)
			exit(1);
	end += sprintf(end, "ready");
	for (int i = 0; i < count; i++)
		end += sprintf(end, " %d", pids[i]);
	sprintf(end, "\n");
	say(text);
	while (wait(NULL) > 0 || errno == EINTR)
		;
}

int main(int argc, char **argv)
{
	int option;

	while ((option = getopt(argc, argv, "+g:p:r:c:m:bHi")) != -1) {
		switch (option) {
		case 'g':
			if (group_count == GROUPS)
				return 2;
			groups[group_count++] = optarg;
			break;
		case 'p': parent = atoi(optarg); break;
		case 'r': report = optarg; break;
		case 'c': cpu = atoi(optarg); break;
		case 'm': mappings = atoi(optarg); break;
		case 'b': busy = 1; break;
		case 'H': huge = 1; break;
		case 'i': idle = 1; break;
		default: return 2;
		}
	}
	argv += optind;
	argc -= optind;
	/* Ctrl-C is for the parent alone. The session stays: sched(7) autogroups share the CPU by session. */
	setpgid(0, 0);
	if (parent)
		end_with(parent);
	if (argc == 2 && strcmp(argv[0], "hold") == 0)
		hold(strtoull(argv[1], NULL, 10));
	if (argc == 2 && strcmp(argv[0], "spin") == 0)
		spin(atoi(argv[1]));
	if (argc != 3 || strcmp(argv[0], "crowd") != 0)
		return 2;
	crowd(atoi(argv[1]), strtoull(argv[2], NULL, 10));
	return 0;
}
