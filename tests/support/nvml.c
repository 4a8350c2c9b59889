/* A driver's library without a driver: two GPUs, of which the second tells hardly anything.

   FALSE_GPUS: how many; "none": the driver does not answer. FALSE_PROCESSES: how many compute on
   the first, numbered from 1000. FALSE_DRIVER=old: it knows functions by their older names alone.
   FALSE_MIG: the GPUs are divided: no rate is told, and a part of the first one is known. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NO_SUPPORT = 3, NOT_FOUND = 6, TOO_SMALL = 7, NOT_LOADED = 9, NO_FUNCTION = 13 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Rates;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;

static const char *const IDS[] = {"GPU-11aa", "GPU-22bb", "MIG-33cc"};
static unsigned asked;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int text(char *to, unsigned size, const char *from) {
    snprintf(to, size, "%s", from);
    return OK;
}

/* A handle is a pointer to nothing that anybody may look at: 1, 2, 3. */
static int first(void *gpu) { return gpu == (void *)1; }

static int first_has(void *gpu, unsigned *to, unsigned value) {
    *to = value;
    return first(gpu) ? OK : NO_SUPPORT;
}

int nvmlInitWithFlags(unsigned flags) {
    const char *count = getenv("FALSE_GPUS");
    (void)flags;
    return count && !strcmp(count, "none") ? NOT_LOADED : OK;
}

int nvmlInit(void) { return nvmlInitWithFlags(0); } /* as torch calls it */

int nvmlShutdown(void) { return OK; }

int nvmlSystemGetDriverVersion(char *to, unsigned size) { return text(to, size, "580.159.03"); }

int nvmlSystemGetCudaDriverVersion_v2(int *to) {
    *to = number("FALSE_CUDA", 12080);
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *to) {
    *to = number("FALSE_GPUS", 2);
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **to) {
    *to = (void *)(unsigned long)(index + 1);
    return OK;
}

int nvmlDeviceGetHandleByUUID(const char *id, void **to) {
    int known = getenv("FALSE_MIG") ? 3 : number("FALSE_GPUS", 2);
    for (int index = 0; index < known; index++)
        if (!strcmp(id, IDS[index])) return nvmlDeviceGetHandleByIndex_v2(index, to);
    return NOT_FOUND;
}

int nvmlDeviceGetUUID(void *gpu, char *to, unsigned size) {
    return text(to, size, IDS[(unsigned long)gpu - 1]);
}

int nvmlDeviceGetName(void *gpu, char *to, unsigned size) {
    return text(to, size, first(gpu) ? "NVIDIA H200" : "NVIDIA T4");
}

int nvmlDeviceGetMemoryInfo(void *gpu, Memory *to) {
    to->total = 143771ULL << 20;
    return first(gpu) ? OK : NO_SUPPORT;
}

int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) {
    *major = first(gpu) ? 9 : 7;
    *minor = first(gpu) ? 0 : 5;
    return OK;
}

int nvmlDeviceGetNumGpuCores(void *gpu, unsigned *to) { return first_has(gpu, to, 16896); }

int nvmlDeviceGetEccMode(void *gpu, unsigned *current, unsigned *pending) {
    *pending = 0;
    return first_has(gpu, current, 1);
}

int nvmlDeviceGetMigMode(void *gpu, unsigned *current, unsigned *pending) {
    *pending = 0;
    return first_has(gpu, current, getenv("FALSE_MIG") != NULL);
}

int nvmlDeviceGetClockInfo(void *gpu, int kind, unsigned *to) {
    return first_has(gpu, to, kind == 2 ? 3201 : 345);
}

int nvmlDeviceGetMaxClockInfo(void *gpu, int kind, unsigned *to) {
    (void)kind;
    return first_has(gpu, to, 1980);
}

int nvmlDeviceGetPowerManagementLimit(void *gpu, unsigned *to) {
    return first_has(gpu, to, 700000);
}

/* Each time one per cent more. */
int nvmlDeviceGetUtilizationRates(void *gpu, Rates *to) {
    return getenv("FALSE_MIG") ? NO_SUPPORT : first_has(gpu, &to->gpu, asked++);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *gpu, unsigned long long *to) {
    *to = first(gpu) ? 0x1 : 0x44; /* idle; power limit and heat */
    return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(void *gpu, unsigned long long *to) {
    if (getenv("FALSE_DRIVER")) return NO_FUNCTION;
    return nvmlDeviceGetCurrentClocksThrottleReasons(gpu, to);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *gpu, unsigned *count, Process *to) {
    unsigned running = number("FALSE_PROCESSES", 1);
    int fits = to && *count >= running;
    if (!first(gpu)) return NO_SUPPORT;
    *count = running;
    for (unsigned index = 0; fits && index < running; index++)
        to[index] = (Process){.pid = 1000 + index};
    return fits || !running ? OK : TOO_SMALL;
}
