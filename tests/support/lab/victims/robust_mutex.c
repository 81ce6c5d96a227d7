/*
 * A robust mutex shared by processes (pthread_mutexattr_setrobust(3)): a victim holds it, a waiter sleeps for it, and somebody kills
 * the victim. The kernel then gives the mutex to the waiter (EOWNERDEAD), if it can still read the victim's robust list.
 *
 * One order a line on stdin:
 *   hold BYTES THREADS   forks both; the victim writes to BYTES of private memory, and the last of its THREADS takes the mutex.
 *                Says the victim's pid when the waiter sleeps.
 *   outcome      waits for the victim's exit and says what became of the waiter: "owner-died", or "hung LOCK" with the mutex's word.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t *mutex; /* in memory that all three share */
static pid_t victim, waiter;
static unsigned int owner; /* the thread that holds it */

static void check(int failed, const char *what)
{
	if (failed) {
		perror(what);
		exit(1);
	}
}

static unsigned int lock_word(void)
{
	return __atomic_load_n((unsigned int *)&mutex->__data.__lock, __ATOMIC_SEQ_CST);
}

static void make_mutex(void)
{
	pthread_mutexattr_t attributes;

	memset(mutex, 0, sizeof *mutex);
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	errno = pthread_mutex_init(mutex, &attributes);
	check(errno, "pthread_mutex_init");
	pthread_mutexattr_destroy(&attributes);
}

static pid_t fork_bound(void)
{
	pid_t pid = fork();

	check(pid < 0, "fork");
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void *sleep_for_ever(void *ready)
{
	if (ready && (pthread_mutex_lock(mutex) || write(*(int *)ready, "x", 1) != 1))
		_exit(1);
	for (;;)
		pause();
}

static void be_victim(size_t size, int threads, int ready)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_t thread;

	if (memory == MAP_FAILED)
		_exit(1);
	memset(memory, 0x5a, size);
	while (threads-- > 0)
		if (pthread_create(&thread, NULL, sleep_for_ever, threads ? NULL : &ready))
			_exit(1);
	for (;;)
		pause();
}

static void be_waiter(void)
{
	_exit(pthread_mutex_lock(mutex) == EOWNERDEAD ? 0 : 1);
}

/* Whether a child sleeps in futex(2), proc_pid_syscall(5): a sleeper that was woken is "running" from that moment on. */
static int sleeps_in_futex(pid_t pid)
{
	char path[64], text[32] = "";
	int fd;

	snprintf(path, sizeof path, "/proc/%d/syscall", pid);
	fd = open(path, O_RDONLY);
	check(fd < 0 || read(fd, text, sizeof text - 1) < 0, path);
	close(fd);
	return text[0] != 'r' && atoi(text) == SYS_futex;
}

static void hold(size_t size, int threads)
{
	const struct timespec moment = {.tv_nsec = 50000};
	int ready[2];
	char byte;

	make_mutex();
	check(pipe(ready), "pipe");
	victim = fork_bound();
	if (victim == 0)
		be_victim(size, threads, ready[1]);
	close(ready[1]);
	check(read(ready[0], &byte, 1) != 1, "the victim has the mutex");
	close(ready[0]);
	owner = lock_word() & FUTEX_TID_MASK;
	waiter = fork_bound();
	if (waiter == 0)
		be_waiter();
	/* The kernel announces by no event that somebody sleeps. */
	while (!sleeps_in_futex(waiter))
		nanosleep(&moment, NULL);
	printf("%d\n", victim);
}

static void outcome(void)
{
	int status;
	unsigned int word;

	/* Reaped, it has walked its robust list: a waiter that has not been woken by now never will be. */
	check(waitpid(victim, &status, 0) != victim, "waitpid of the victim");
	word = lock_word();
	if ((word & FUTEX_TID_MASK) == owner && sleeps_in_futex(waiter)) {
		kill(waiter, SIGKILL);
		check(waitpid(waiter, &status, 0) != waiter, "waitpid of the waiter");
		printf("hung %#x\n", word);
		return;
	}
	check(waitpid(waiter, &status, 0) != waiter, "waitpid of the waiter");
	puts(status ? "other" : "owner-died");
}

int main(void)
{
	char line[64];
	size_t size;
	int threads;

	mutex = mmap(NULL, sizeof *mutex, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(mutex == MAP_FAILED, "mmap");
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "hold %zu %d", &size, &threads) == 2)
			hold(size, threads);
		else
			outcome();
	}
	return 0;
}
