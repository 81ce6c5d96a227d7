/*
 * Watches processes while somebody else kills them: it knows nothing of the agent, and neither signals nor traces. It reads what needs no
 * mmap_lock: statm of every thread (files opened before the kill and kept open), the charge of a cgroup, and polls pidfds.
 * The clock is CLOCK_MONOTONIC.
 *
 * stdin                      stdout
 * watch FILE|- PID...        armed NANOSECONDS ANON SWAP SHARED THREADS   (bytes; sums over the processes that are there)
 * begin                      samples densely from now on
 * answer                     looks at everything at once
 * end                        the track: lines as below, then "."
 *
 *  c FIRST_BEGIN FIRST_END LAST_BEGIN LAST_END COUNT BYTES    so many samples in a row read this charge
 *  a ...                                               BYTES    the same for private resident memory: resident - shared of statm
 *  x PID LAST_NOT FIRST_READABLE                               the pidfd: 0 where it never was so
 *  m NAME NANOSECONDS                                          begin, answer
 *  g NANOSECONDS                                               the longest time between two samples after "begin"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { LINE = 65536 };
/* Nanoseconds between samples: before the kill; the least after it, a 50th of the time since; the most. */
static const int64_t BEFORE = 5000000, LEAST = 150000, MOST = 5000000, SHARE = 50;
/* A look at statm takes a reference to the address space while it lasts: so it is taken less often. */
static const int64_t STATM = 1000000;

struct process { int pid, pidfd, thread_count, *threads; int64_t not_yet, readable; };
struct run { int64_t first_begin, first_end, last_begin, last_end, count, value; };
struct series { struct run *runs; size_t count, room; };

static struct process *processes;
static struct pollfd *polled;
static int process_count, charge = -1;
static struct series charges, anons;
static int64_t begun, answered, last_sample, last_statm, longest;
static long page;
static char input[LINE];
static size_t filled;

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "observer: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *grown(void *old, size_t size)
{
	void *new = realloc(old, size ? size : 1);

	if (!new)
		die("memory");
	return new;
}

static void note(struct series *s, int64_t begin, int64_t end, int64_t value)
{
	struct run *last = s->count ? &s->runs[s->count - 1] : NULL;

	/* Before and after a mark are kept apart: what was read after the answer says nothing of the time before. */
	if (last && last->value == value && !(last->last_begin < begun && begin >= begun) &&
	    !(last->last_begin < answered && begin >= answered)) {
		last->last_begin = begin;
		last->last_end = end;
		last->count++;
		return;
	}
	if (s->count == s->room) {
		s->room = s->room ? s->room * 2 : 64;
		s->runs = grown(s->runs, s->room * sizeof(struct run));
	}
	s->runs[s->count++] = (struct run){ begin, end, begin, end, 1, value };
}

/* resident - shared of one open statm in bytes; -1: the thread is gone, or has no address space any more. */
static int64_t private_bytes(int fd)
{
	char text[160];
	long long size, resident, shared;
	ssize_t got = pread(fd, text, sizeof(text) - 1, 0);

	if (got <= 0)
		return -1;
	text[got] = 0;
	if (sscanf(text, "%lld %lld %lld", &size, &resident, &shared) != 3 || size == 0)
		return -1;
	return (resident - shared) * page;
}

static int64_t anon_of(struct process *p)
{
	for (int i = 0; i < p->thread_count; i++) {
		int64_t bytes = private_bytes(p->threads[i]);
		if (bytes >= 0)
			return bytes;
	}
	return 0;
}

static void look_at_charge(void)
{
	char text[40];
	int64_t begin = now();
	ssize_t got;

	if (charge < 0)
		return;
	got = pread(charge, text, sizeof(text) - 1, 0);
	if (got <= 0)
		return; /* the cgroup was removed */
	text[got] = 0;
	note(&charges, begin, now(), strtoll(text, NULL, 10));
}

static void look_at_processes(void)
{
	int64_t begin = now(), sum = 0;

	for (int i = 0; i < process_count; i++)
		sum += anon_of(&processes[i]);
	note(&anons, begin, last_statm = now(), sum);
}

static void look_at_exits(void)
{
	int64_t begin = now();

	poll(polled + 1, process_count, 0);
	for (int i = 0; i < process_count; i++) {
		if (polled[i + 1].fd < 0)
			continue;
		if (polled[i + 1].revents) {
			processes[i].readable = now();
			polled[i + 1].fd = -1; /* poll(2) passes it over */
		} else {
			processes[i].not_yet = begin;
		}
	}
}

static void sample(int everything)
{
	int64_t begin = now();

	if (begun && last_sample && begin - last_sample > longest)
		longest = begin - last_sample;
	/* Exits first: what is read of the memory then is read after them. */
	look_at_exits();
	look_at_charge();
	if (everything || begin - last_statm >= STATM)
		look_at_processes();
	last_sample = begin;
}

static int64_t field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at ? strtoll(at + strlen(name), NULL, 10) : 0;
}

static void open_threads(struct process *p)
{
	char path[80];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", p->pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/statm", p->pid, entry->d_name);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		p->threads = grown(p->threads, (p->thread_count + 1) * sizeof(int));
		p->threads[p->thread_count++] = fd;
	}
	if (tasks)
		closedir(tasks);
}

/* What statm does not have: swap. From status of a thread that has the address space, before the kill. */
static void read_status(struct process *p, int64_t *swap, int64_t *shared)
{
	char path[80], text[8192];
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", p->pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		snprintf(path, sizeof(path), "/proc/%d/task/%.20s/status", p->pid, entry->d_name);
		int fd = entry->d_name[0] == '.' ? -1 : open(path, O_RDONLY | O_CLOEXEC);
		ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (fd >= 0)
			close(fd);
		if (got <= 0)
			continue;
		text[got] = 0;
		if (!strstr(text, "\nRssAnon:"))
			continue;
		*swap += field(text, "\nVmSwap:") * 1024;
		*shared += field(text, "\nRssShmem:") * 1024;
		break;
	}
	if (tasks)
		closedir(tasks);
}

static void forget(void)
{
	for (int i = 0; i < process_count; i++) {
		for (int t = 0; t < processes[i].thread_count; t++)
			close(processes[i].threads[t]);
		free(processes[i].threads);
		close(processes[i].pidfd);
	}
	if (charge >= 0)
		close(charge);
	charge = -1;
	process_count = 0;
	charges.count = anons.count = 0;
	begun = answered = last_sample = last_statm = longest = 0;
}

static void watch(char *words)
{
	char *word = strtok(words, " ");
	int64_t swap = 0, shared = 0;
	int threads = 0;

	forget();
	if (word && strcmp(word, "-") != 0 && (charge = open(word, O_RDONLY | O_CLOEXEC)) < 0)
		die(word);
	while ((word = strtok(NULL, " "))) {
		int pid = atoi(word), pidfd = syscall(SYS_pidfd_open, pid, 0);
		if (pidfd < 0)
			continue; /* it has gone already: nothing to be watched */
		processes = grown(processes, (process_count + 1) * sizeof(*processes));
		polled = grown(polled, (process_count + 2) * sizeof(*polled));
		processes[process_count] = (struct process){ .pid = pid, .pidfd = pidfd };
		polled[process_count + 1] = (struct pollfd){ .fd = pidfd, .events = POLLIN };
		open_threads(&processes[process_count]);
		read_status(&processes[process_count], &swap, &shared);
		threads += processes[process_count].thread_count;
		process_count++;
	}
	sample(1);
	printf("armed %lld %lld %lld %lld %d\n", (long long)last_sample, (long long)(anons.count ? anons.runs[0].value : 0), (long long)swap,
	       (long long)shared, threads);
}

static void tell_series(char name, struct series *s)
{
	for (size_t i = 0; i < s->count; i++) {
		struct run *r = &s->runs[i];
		printf("%c %lld %lld %lld %lld %lld %lld\n", name, (long long)r->first_begin, (long long)r->first_end,
		       (long long)r->last_begin, (long long)r->last_end, (long long)r->count, (long long)r->value);
	}
}

static void tell(void)
{
	tell_series('c', &charges);
	tell_series('a', &anons);
	for (int i = 0; i < process_count; i++)
		printf("x %d %lld %lld\n", processes[i].pid, (long long)processes[i].not_yet, (long long)processes[i].readable);
	printf("m begin %lld\nm answer %lld\ng %lld\n.\n", (long long)begun, (long long)answered, (long long)longest);
	forget();
}

static void obey(char *line)
{
	if (strncmp(line, "watch ", 6) == 0) {
		watch(line + 6);
	} else if (strcmp(line, "begin") == 0) {
		sample(1);
		begun = now();
		printf("begun\n");
	} else if (strcmp(line, "answer") == 0) {
		answered = now();
		sample(1);
	} else if (strcmp(line, "end") == 0) {
		sample(1);
		tell();
	}
	fflush(stdout);
}

static void read_orders(void)
{
	ssize_t got = read(STDIN_FILENO, input + filled, sizeof(input) - filled - 1);
	char *start = input, *end;

	if (got <= 0)
		exit(0);
	filled += got;
	input[filled] = 0;
	while ((end = strchr(start, '\n'))) {
		*end = 0;
		obey(start);
		start = end + 1;
	}
	filled -= start - input;
	memmove(input, start, filled);
	if (filled == sizeof(input) - 1)
		die("a line too long");
}

static int64_t pause_now(void)
{
	int64_t spacing;

	if (!begun)
		return BEFORE;
	spacing = (now() - (answered ? answered : begun)) / SHARE;
	return spacing < LEAST ? LEAST : spacing > MOST ? MOST : spacing;
}

int main(void)
{
	struct rlimit files;

	page = sysconf(_SC_PAGESIZE);
	setpriority(PRIO_PROCESS, 0, -20); /* who is starved sees nothing; without the right to it the gaps are longer, and are told */
	prctl(PR_SET_TIMERSLACK, 1);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	polled = grown(NULL, sizeof(*polled));
	for (;;) {
		int watching = process_count > 0 || charge >= 0;
		int64_t pause = pause_now();
		struct timespec timeout = { pause / 1000000000, pause % 1000000000 };

		polled[0] = (struct pollfd){ .fd = STDIN_FILENO, .events = POLLIN };
		/* A death wakes it, too. */
		if (ppoll(polled, process_count + 1, watching ? &timeout : NULL, NULL) < 0 && errno != EINTR)
			die("poll");
		if (watching)
			sample(0);
		if (polled[0].revents)
			read_orders();
	}
}
