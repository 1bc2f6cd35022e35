/* A library that stands for libnvidia-ml.so.1: $FAKE_NVML_DEVICES equal GPUs, pairs of them linked by NVLink, four to
 * a NUMA node. Whoever computes on GPU i writes `PID BYTES BUSY MHZ THROTTLE` into the file $FAKE_NVML/i. Each draws
 * 100 W. With $FAKE_NVML_SLOW the first question about processes takes half a second, and while there is a file
 * $FAKE_NVML/hangs none is answered. Only what the harness calls is
 * here; values and layouts are those of NVIDIA's nvml.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };
enum { P2P_OK = 0, P2P_NOT_SUPPORTED = 5, TOPOLOGY_NODE = 40, TOPOLOGY_SYSTEM = 50 };

struct use { unsigned pid; unsigned long long bytes; unsigned busy, mhz; unsigned long long throttle; };
struct process { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; };
struct utilisation { unsigned gpu, memory; };

/* A handle is the index and one, so that none is null. */
static unsigned index_of(void *device) { return (unsigned)(size_t)device - 1; }

static int devices(void) {
    const char *number = getenv("FAKE_NVML_DEVICES");
    return number ? atoi(number) : 0;
}

static struct use use_of(void *device) {
    struct use use = {0};
    char path[4096];
    snprintf(path, sizeof path, "%s/%u", getenv("FAKE_NVML"), index_of(device));
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%u %llu %u %u %llu", &use.pid, &use.bytes, &use.busy, &use.mhz, &use.throttle) != 5)
            use.pid = 0; /* half written */
        fclose(file);
    }
    return use;
}

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the fake"; }

int nvmlSystemGetDriverVersion(char *to, unsigned length) {
    snprintf(to, length, "1.0-fake");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = devices();
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if ((int)index >= devices()) return INVALID_ARGUMENT;
    *device = (void *)(size_t)(index + 1);
    return SUCCESS;
}

int nvmlDeviceGetIndex(void *device, unsigned *index) {
    *index = index_of(device);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *to, unsigned length) {
    (void)device;
    snprintf(to, length, "Fake H100");
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *device, char *to, unsigned length) {
    snprintf(to, length, "GPU-fake-%u", index_of(device));
    return SUCCESS;
}

int nvmlDeviceGetNumaNodeId(void *device, unsigned *node) {
    *node = index_of(device) / 4;
    return SUCCESS;
}

int nvmlDeviceGetP2PStatus(void *one, void *other, int capability, int *status) {
    int linked = capability == 2 /* NVLINK */ && index_of(one) / 2 == index_of(other) / 2;
    *status = linked ? P2P_OK : P2P_NOT_SUPPORTED;
    return SUCCESS;
}

int nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, int *level) {
    *level = index_of(one) / 4 == index_of(other) / 4 ? TOPOLOGY_NODE : TOPOLOGY_SYSTEM;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *millijoules) {
    (void)device;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = 100ull * (now.tv_sec * 1000ull + now.tv_nsec / 1000000);
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, struct process *processes) {
    static int asked;
    if (getenv("FAKE_NVML_SLOW") && !asked++) nanosleep(&(struct timespec){0, 500000000}, NULL);
    char hangs[4096];
    snprintf(hangs, sizeof hangs, "%s/hangs", getenv("FAKE_NVML"));
    while (!access(hangs, F_OK)) sleep(1);
    struct use use = use_of(device);
    unsigned room = *count;
    *count = use.pid ? 1 : 0;
    if (*count > (processes ? room : 0)) return INSUFFICIENT_SIZE;
    if (*count) processes[0] = (struct process){use.pid, use.bytes, 0, 0};
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, int type, unsigned *mhz) {
    (void)type;
    *mhz = use_of(device).mhz;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(void *device, int type, unsigned *mhz) {
    (void)device, (void)type;
    *mhz = 1980;
    return SUCCESS;
}

int nvmlDeviceGetApplicationsClock(void *device, int type, unsigned *mhz) {
    (void)device, (void)type, (void)mhz;
    return NOT_SUPPORTED;
}

int nvmlDeviceGetUtilizationRates(void *device, struct utilisation *rates) {
    rates->gpu = use_of(device).busy;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    *reasons = use_of(device).throttle;
    return SUCCESS;
}
