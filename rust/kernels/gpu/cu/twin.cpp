// The twin's threads, its memory, and how Rust calls it (kernels/gpu/twin.rs). One launch runs at a time.

#include "kernels.cu"

#include <setjmp.h>
#include <stdlib.h>
#include <ucontext.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

twin::Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

enum class State { READY, IN_WARP, IN_BLOCK, ENDED };

// Made once, by makecontext; from then on it is left and entered by jumps, which ask nothing of the system.
struct Copy {
    void* to;
    const void* from;
    bool there;
    unsigned group;
};

struct Thread {
    jmp_buf at;
    bool begun;
    State state;
    unsigned exchanges;
    unsigned group;
    std::vector<Copy> copies;
};

struct Warp {
    std::array<uint64_t, 32> words[2];
};

struct Entry {
    unsigned threads;
    std::function<void(void**)> run;
};

constexpr size_t STACK = 64 << 10;
constexpr size_t FENCE = 64;
constexpr unsigned char FENCED = 0xa5;

std::vector<Thread> threads;
std::vector<Warp> warps;
std::vector<std::unique_ptr<char[]>> stacks;
jmp_buf home;
unsigned current;
const Entry* running;
void** running_arguments;
std::string fault;

std::map<std::string, Entry>& entries() {
    static std::map<std::string, Entry> all;
    return all;
}

void wait(State state) {
    threads[current].state = state;
    if (_setjmp(threads[current].at) == 0) _longjmp(home, 1);
}

// What a thread does all its life: one block after another.
void body() {
    for (;;) {
        running->run(running_arguments);
        wait(State::ENDED);
    }
}

// Lets the current thread go on, until it waits or ends.
void resume() {
    if (_setjmp(home) != 0) return;
    Thread& thread = threads[current];
    if (thread.begun) _longjmp(thread.at, 1);
    thread.begun = true;
    ucontext_t start;
    getcontext(&start);
    start.uc_stack.ss_sp = stacks[current].get();
    start.uc_stack.ss_size = STACK;
    start.uc_link = nullptr;
    makecontext(&start, body, 0);
    setcontext(&start);
}

// Lets those go on who wait for the threads from `first` to `last`, where all of them that have not ended wait there.
bool release(unsigned first, unsigned last, State where) {
    unsigned waiting = 0, ended = 0;
    for (unsigned i = first; i < last; i++) {
        waiting += threads[i].state == where;
        ended += threads[i].state == State::ENDED;
    }
    if (waiting == 0 || waiting + ended < last - first) return false;
    // A warp's exchanges name all its lanes; on a GPU it is undefined what becomes of one that some have left.
    if (where == State::IN_WARP && ended > 0) {
        fault = "lanes of a warp wait for lanes that have ended";
        return false;
    }
    for (unsigned i = first; i < last; i++) {
        if (threads[i].state == where) threads[i].state = State::READY;
    }
    return true;
}

// One block, its threads taken in the order that `order` says: 0 forwards, 1 backwards, else by a stride.
void run_block(unsigned count, unsigned order) {
    for (unsigned i = 0; i < count; i++) {
        threads[i].state = State::READY;
        threads[i].exchanges = 0;
        threads[i].copies.clear();
    }
    while (fault.empty()) {
        bool ran = false;
        for (unsigned i = 0; i < count; i++) {
            current = order == 0 ? i : order == 1 ? count - 1 - i : (i * (2 * order + 1) + order) % count;
            if (threads[current].state != State::READY) continue;
            ran = true;
            threadIdx.x = current;
            resume();
        }
        bool released = false;
        for (unsigned first = 0; first < count; first += 32) released |= release(first, first + 32, State::IN_WARP);
        if (!released) released = release(0, count, State::IN_BLOCK);
        if (!ran && !released) break;
    }
    for (unsigned i = 0; i < count; i++) {
        if (fault.empty() && threads[i].state != State::ENDED) fault = "threads wait for each other for ever";
    }
    // Those that a fault has left in the middle begin anew.
    for (unsigned i = 0; i < count && !fault.empty(); i++) threads[i].begun = false;
}

}  // namespace

namespace twin {

void Kernel::enlist(const char* name, unsigned threads, std::function<void(void**)> run) {
    entries()[name] = Entry{threads, std::move(run)};
}

void wait_block() { wait(State::IN_BLOCK); }
void wait_warp() { wait(State::IN_WARP); }

const std::array<uint64_t, 32>& exchange(uint64_t word) {
    const unsigned me = current;
    auto& words = warps[me / 32].words[threads[me].exchanges++ % 2];
    words[me % 32] = word;
    wait_warp();
    return words;
}

float of_f16(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? ldexpf(float(fraction), -24)
                                       : ldexpf(float(fraction + 1024), exponent - 25);
    return bits & 0x8000 ? -size : size;
}

void copy16(void* to, const void* from, bool there) {
    Thread& thread = threads[current];
    thread.copies.push_back({to, from, there, thread.group});
}

void copies_end() { threads[current].group++; }

void copies_wait(unsigned left) {
    Thread& thread = threads[current];
    std::vector<Copy> later;
    for (const Copy& copy : thread.copies) {
        if (copy.group + left >= thread.group) {
            later.push_back(copy);
        } else if (copy.there) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
    }
    thread.copies = std::move(later);
}

uint16_t to_f16(float x) {
    const uint16_t sign = signbit(x) ? 0x8000 : 0;
    const float size = fabsf(x);
    if (isnan(x)) return sign | 0x7e00;
    if (size >= 65520.0f) return sign | 0x7c00;
    int exponent;
    frexpf(size, &exponent);
    // Below 2^-14 the steps grow no finer.
    const int step = (exponent < -13 ? -13 : exponent) - 11;
    const int steps = int(nearbyintf(ldexpf(size, -step)));  // to nearest, ties to even
    const int scale = step + 24;
    // 2048 steps are the next binade's first number: adding carries into the exponent by itself.
    return sign | uint16_t(steps < 1024 ? steps : (scale << 10) + steps);
}

uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (isnan(x)) return uint16_t(bits >> 16 | 64);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace twin

namespace {

template <class T>
void multiply(const T* x, const T* weight, T* out, int rows, int n, int k) {
    std::vector<float> wide(size_t(n) * k), row(k);
    for (size_t i = 0; i < wide.size(); i++) wide[i] = widen(weight[i]);
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < k; i++) row[i] = widen(x[size_t(r) * k + i]);
        for (int c = 0; c < n; c++) {
            // Eight sums, so that the compiler may use vectors.
            float sums[8] = {};
            const float* w = &wide[size_t(c) * k];
            int i = 0;
            for (; i + 8 <= k; i += 8) {
                for (int j = 0; j < 8; j++) sums[j] += row[i + j] * w[i + j];
            }
            for (; i < k; i++) sums[0] += row[i] * w[i];
            float sum = 0;
            for (float part : sums) sum += part;
            narrow(sum, out[size_t(r) * n + c]);
        }
    }
}

}  // namespace

// Runs a kernel to its end, its threads in this order. Null, or what went wrong, valid until the next call.
extern "C" const char* twin_launch(const char* name, const unsigned* grid, unsigned block, void** arguments, unsigned order) {
    fault.clear();
    const auto found = entries().find(name);
    if (found == entries().end()) return (fault = std::string("no kernel ") + name).c_str();
    if (block == 0 || block % 32 || block > found->second.threads) return "a block of the wrong size";
    if (order > 1 && block % (2 * order + 1) == 0) return "an order that leaves threads out";
    running = &found->second;
    running_arguments = arguments;
    if (threads.size() < block) threads.resize(block);
    warps.resize(block / 32);
    while (stacks.size() < block) stacks.emplace_back(new char[STACK]);
    blockDim = {block, 1, 1};
    gridDim = {grid[0], grid[1], grid[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++) {
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++) {
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++) {
                run_block(block, order);
                if (!fault.empty()) return fault.c_str();
            }
        }
    }
    return nullptr;
}

// out [rows, n] = x [rows, k] weight [n, k]^T, all in one precision, summed in f32: what cuBLAS does on a GPU.
extern "C" void twin_product(const char* precision, const void* x, const void* weight, void* out, int rows, int n, int k) {
    if (!strcmp(precision, "f32")) {
        multiply(static_cast<const float*>(x), static_cast<const float*>(weight), static_cast<float*>(out), rows, n, k);
    } else if (!strcmp(precision, "f16")) {
        multiply(static_cast<const f16*>(x), static_cast<const f16*>(weight), static_cast<f16*>(out), rows, n, k);
    } else {
        multiply(static_cast<const bf16*>(x), static_cast<const bf16*>(weight), static_cast<bf16*>(out), rows, n, k);
    }
}

// Memory between two fences, filled with what is no number: whoever reads what was not written, or writes past an end, shows.
extern "C" void* twin_alloc(size_t bytes) {
    auto* all = static_cast<unsigned char*>(aligned_alloc(FENCE, (bytes + 3 * FENCE - 1) / FENCE * FENCE));
    if (all == nullptr) return nullptr;
    memset(all, FENCED, FENCE);
    memset(all + FENCE, 0xff, bytes);
    memset(all + FENCE + bytes, FENCED, FENCE);
    return all + FENCE;
}

// Whether both fences stand.
extern "C" bool twin_free(void* memory, size_t bytes) {
    auto* inner = static_cast<unsigned char*>(memory);
    bool whole = true;
    for (size_t i = 0; i < FENCE; i++) whole &= inner[i - FENCE] == FENCED && inner[bytes + i] == FENCED;
    free(inner - FENCE);
    return whole;
}

extern "C" uint16_t twin_f16(float x) { return twin::to_f16(x); }
extern "C" uint16_t twin_bf16(float x) { return twin::to_bf16(x); }
extern "C" float twin_wide(uint16_t bits) { return twin::of_f16(bits); }
