// Runs CUDA C++ kernels on a CPU so that tests can check them. No GPU is involved, and speed here
// says nothing about speed there.
//
// Every CUDA thread of a block is a fiber on one CPU thread; blocks run one after another. A fiber
// runs until it meets a barrier or a shuffle, so what another thread has yet to write is really
// missing when the barrier that should wait for it is. Three orders of threads and blocks see to it
// that whichever thread ought to have waited comes too early in one of them: two run a warp as far
// as it gets before the next, one mixes all threads.
//
// Reported as an error, never a hang: a block barrier that some threads skip or meet at another
// line, a warp barrier or shuffle to which some lanes do not come, a shuffle that reads outside its
// mask, a launch CUDA would refuse, arguments of the wrong number or size. Shared memory starts
// every block full of NaN; an asynchronous copy comes as late as it may. Not modelled: the memory
// model, registers, wgmma, TMA.
//
// launcher.py builds one library per source text: #include "cuda_names.h" namespace { <text> }
// The unnamed namespace keeps every static of a kernel inside its own library.

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <utility>
#include <vector>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;

namespace emulator {
namespace {

// ---- Switching between fibers -----------------------------------------------------------------

constexpr size_t PAGE_BYTES = 4096;
constexpr size_t STACK_BYTES = 16 * PAGE_BYTES;  // the lowest page is a guard

#if defined(__x86_64__) && !defined(GG_UCONTEXT)
// Saving the six callee-saved registers takes nanoseconds. swapcontext makes a system call for the
// signal mask, so it serves only the processors this is not written for.
struct Context {
    void* stack_pointer;
};

extern "C" void gg_swap_stacks(void** save_stack_pointer, void* next_stack_pointer);
asm(R"(
    .text
    .globl gg_swap_stacks
    .hidden gg_swap_stacks
gg_swap_stacks:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
)");

void switch_stacks(Context& from, Context& to) {
    gg_swap_stacks(&from.stack_pointer, to.stack_pointer);
}

void prepare(Context& context, char* stack, void (*entry)()) {
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES);
    *--top = nullptr;  // in place of a return address: the alignment a call would leave
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    context.stack_pointer = top;
}
#else
typedef ucontext_t Context;

void switch_stacks(Context& from, Context& to) { swapcontext(&from, &to); }

void prepare(Context& context, char* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
}
#endif

// ---- The block that is running ----------------------------------------------------------------

constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned LANES = 32;

enum class State { ready, at_block_barrier, at_warp_barrier, returned };

// A place in the kernel's text. As a barrier's default argument, here() is where it is called.
struct Site {
    const char* file;
    int line;
    static Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Site& other) const {
        return line == other.line && !strcmp(file, other.file);
    }
};

// A copy to shared memory that was started and not waited for.
struct Copy {
    void* to;
    const void* from;
    int bytes, valid;
    unsigned group;
};

struct Fiber {
    Context context;
    unsigned number;  // linear in the block, x fastest
    uint3 index;
    State state;
    Site site;           // where it waits
    unsigned lane_mask;  // for whom, at a warp barrier
    std::vector<Copy> copies;
    unsigned groups;  // of copies, that were ended
};

struct Kernel {
    const char* name;
    std::vector<size_t> argument_bytes;
    std::function<void(void** arguments)> run;
};

std::vector<Kernel> kernels;
const Kernel* kernel;
void** arguments;

Fiber fibers[MAX_THREADS];
Fiber* current;  // null while the scheduler itself runs
Context scheduler;
unsigned thread_count;
dim3 block_size, grid_size;
uint3 block_index;
char* dynamic_shared;
uint64_t shuffle_slots[MAX_THREADS / LANES][LANES];
char error[400];  // empty while all is well

__attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
    if (error[0]) return;  // the first failure is the cause
    va_list values;
    va_start(values, format);
    vsnprintf(error, sizeof error, format, values);
    va_end(values);
    const size_t used = strlen(error);
    snprintf(error + used, sizeof error - used, ", block (%u, %u, %u)", block_index.x,
             block_index.y, block_index.z);
}

void give_way() { switch_stacks(current->context, scheduler); }

void require(bool condition, const char* broken, Site site) {
    if (condition) return;
    fail("%s at %s:%d", broken, site.file, site.line);
    give_way();  // for good: the scheduler sees the error and ends the launch
}

// ---- Barriers and shuffles --------------------------------------------------------------------

void wait_for_block(Site site) {
    current->state = State::at_block_barrier;
    current->site = site;
    give_way();
}

void wait_for_warp(unsigned lane_mask, Site site) {
    require(lane_mask >> (current->number % LANES) & 1, "lane outside its own mask", site);
    current->state = State::at_warp_barrier;
    current->site = site;
    current->lane_mask = lane_mask;

    // The last lane to come frees them all.
    Fiber* const warp = &fibers[current->number / LANES * LANES];
    for (unsigned lane = 0; lane < LANES; ++lane) {
        const Fiber& fiber = warp[lane];
        const bool here = fiber.number < thread_count && fiber.state == State::at_warp_barrier &&
                          fiber.lane_mask == lane_mask && fiber.site == site;
        if ((lane_mask >> lane & 1) && !here) return give_way();
    }
    for (unsigned lane = 0; lane < LANES; ++lane) {
        if (lane_mask >> lane & 1) warp[lane].state = State::ready;
    }
    give_way();
}

// Hands `value` to the warp; returns what lane `source` handed in.
template <typename T>
T exchange(unsigned lane_mask, T value, unsigned source, Site site) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
    require(lane_mask >> source & 1, "shuffle from a lane outside its mask", site);
    uint64_t* slots = shuffle_slots[current->number / LANES];
    memcpy(&slots[current->number % LANES], &value, sizeof(T));
    wait_for_warp(lane_mask, site);
    memcpy(&value, &slots[source], sizeof(T));
    wait_for_warp(lane_mask, site);  // nobody refills a slot before all have read
    return value;
}

// ---- Scheduling -------------------------------------------------------------------------------

enum Order { ascending, descending, shuffled };

// The numbers below `count`, in the order asked for; the fixed seed keeps a failure repeatable.
class Sequence {
  public:
    Sequence(unsigned count, Order order) : items(count), order(order) {
        for (unsigned i = 0; i < count; ++i) items[i] = order == descending ? count - 1 - i : i;
    }
    const std::vector<unsigned>& next() {
        if (order == shuffled) std::shuffle(items.begin(), items.end(), random);
        return items;
    }
    bool mixed() const { return order == shuffled; }

  private:
    std::vector<unsigned> items;
    Order order;
    std::minstd_rand random{1};
};

void fiber_main() {
    kernel->run(arguments);
    current->state = State::returned;
    give_way();
}

// Called when no thread can run: all that have not returned are waiting.
void release_block_barrier() {
    const Fiber* first = nullptr;
    unsigned arrived = 0;
    for (unsigned i = 0; i < thread_count; ++i) {
        const Fiber& fiber = fibers[i];
        const Site site = fiber.site;
        if (fiber.state == State::returned) continue;
        if (fiber.state == State::at_warp_barrier) {
            return fail("some lanes never come to the warp operation at %s:%d", site.file,
                        site.line);
        }
        if (!first) first = &fiber;
        if (!(first->site == site)) {
            return fail("threads wait at two barriers, %s:%d and %s:%d", first->site.file,
                        first->site.line, site.file, site.line);
        }
        ++arrived;
    }
    // Volta and later let a barrier pass without the threads that have returned. Refused here: it
    // is a bounds check placed too early far more often than it is meant.
    if (arrived != thread_count) {
        return fail("%u of %u threads come to the barrier at %s:%d", arrived, thread_count,
                    first->site.file, first->site.line);
    }
    for (unsigned i = 0; i < thread_count; ++i) fibers[i].state = State::ready;
}

void run_block(Sequence& threads) {
    unsigned running = thread_count;
    while (running && !error[0]) {
        bool progress = false;
        const std::vector<unsigned>& numbers = threads.next();
        // Ascending and descending, each warp runs as far as it can before the next one starts: so
        // one that has been freed by a barrier is far ahead of another that has not gone on yet.
        const size_t turn = threads.mixed() ? numbers.size() : LANES;
        for (size_t first = 0; first < numbers.size(); first += turn) {
            bool again = true;
            while (again) {
                again = false;
                for (size_t i = first; i < numbers.size() && i < first + turn; ++i) {
                    Fiber& fiber = fibers[numbers[i]];
                    if (fiber.state != State::ready) continue;
                    progress = again = true;
                    current = &fiber;
                    switch_stacks(scheduler, fiber.context);
                    current = nullptr;
                    if (error[0]) return;
                    running -= fiber.state == State::returned;
                }
                again = again && !threads.mixed();
            }
        }
        if (!progress) release_block_barrier();
    }
}

// __shared__ arrays lie in a section of their own, so that they can be found. By hand, since a
// memset would trip AddressSanitizer over the gaps it leaves between them.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_gg_shared[], __stop_gg_shared[];

__attribute__((no_sanitize("address"))) void fill_shared_with_nan(size_t dynamic_bytes) {
    for (volatile char* p = __start_gg_shared; p != __stop_gg_shared; ++p) *p = '\xff';
    for (size_t i = 0; i < dynamic_bytes; ++i) dynamic_shared[i] = '\xff';
}

char* stacks = nullptr;

char* map_stacks() {
    const size_t bytes = MAX_THREADS * STACK_BYTES;
    void* stacks = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) return nullptr;
    for (unsigned i = 0; i < MAX_THREADS; ++i) {
        mprotect(static_cast<char*>(stacks) + i * STACK_BYTES, PAGE_BYTES, PROT_NONE);
    }
    return static_cast<char*>(stacks);
}

void launch(Order order, size_t shared_bytes) {
    if (!stacks) return fail("no memory for the stacks of %u threads", MAX_THREADS);
    const uint64_t blocks = uint64_t(grid_size.x) * grid_size.y * grid_size.z;
    const uint64_t threads = uint64_t(block_size.x) * block_size.y * block_size.z;
    if (!threads || threads > MAX_THREADS || !blocks || grid_size.x >= 1u << 31 ||
        grid_size.y >= 1u << 16 || grid_size.z >= 1u << 16) {
        return fail("CUDA refuses grid (%u, %u, %u), block (%u, %u, %u)", grid_size.x, grid_size.y,
                    grid_size.z, block_size.x, block_size.y, block_size.z);
    }
    if (blocks >= 1u << 31) return fail("the emulator runs fewer than 2^31 blocks");
    thread_count = unsigned(threads);

    // Exactly as long as asked, for AddressSanitizer to guard; malloc aligns to 16 bytes.
    std::vector<char> shared(shared_bytes);
    dynamic_shared = shared.data();
    Sequence block_order(unsigned(blocks), order), thread_order(thread_count, order);
    for (unsigned block : block_order.next()) {
        block_index = {block % grid_size.x, block / grid_size.x % grid_size.y,
                       block / grid_size.x / grid_size.y};
        fill_shared_with_nan(shared_bytes);
        for (unsigned i = 0; i < thread_count; ++i) {
            Fiber& fiber = fibers[i];
            fiber.number = i;
            fiber.index = {i % block_size.x, i / block_size.x % block_size.y,
                           i / block_size.x / block_size.y};
            fiber.state = State::ready;
            fiber.copies.clear();
            fiber.groups = 0;
            char* const stack = stacks + i * STACK_BYTES;
#ifdef __SANITIZE_ADDRESS__
            // No fiber unwinds to the end: the last one here left its frames marked.
            __asan_unpoison_memory_region(stack, STACK_BYTES);
#endif
            prepare(fiber.context, stack, fiber_main);
        }
        run_block(thread_order);
        if (error[0]) break;
    }
}

template <typename... Args, size_t... I>
void call(void (*function)(Args...), void** arguments, std::index_sequence<I...>) {
    function(*static_cast<Args*>(arguments[I])...);
}

template <typename... Args>
bool enlist(const char* name, void (*function)(Args...)) {
    kernels.push_back({name, {sizeof(Args)...}, [function](void** arguments) {
                           call(function, arguments, std::index_sequence_for<Args...>{});
                       }});
    return true;
}

}  // namespace
}  // namespace emulator

// ---- The interface to launcher.py: as cuModuleGetFunction and cuLaunchKernel ------------------

// A negative number when there is no such kernel.
extern "C" int gg_find_kernel(const char* name) {
    for (size_t i = 0; i < emulator::kernels.size(); ++i) {
        if (!strcmp(emulator::kernels[i].name, name)) return int(i);
    }
    return -1;
}

// Makes the stacks of the threads, or takes those of another library: a process may only have so
// many mappings, and guard pages take two each.
extern "C" void* gg_use_stacks(void* others) {
    using namespace emulator;
    stacks = others ? static_cast<char*>(others) : map_stacks();
    return stacks;
}

// Returns null, or the message of the error that ended the launch.
extern "C" const char* gg_launch(int kernel, const unsigned* grid, const unsigned* block,
                                 size_t shared_bytes, void** arguments,
                                 const size_t* argument_bytes, size_t argument_count, int order) {
    using namespace emulator;
    error[0] = '\0';
    block_index = {0, 0, 0};
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    emulator::kernel = &kernels[kernel];
    emulator::arguments = arguments;
    const std::vector<size_t>& expected = emulator::kernel->argument_bytes;
    if (expected != std::vector<size_t>(argument_bytes, argument_bytes + argument_count)) {
        fail("arguments differ from the parameters of %s in number or size",
             emulator::kernel->name);
    } else {
        launch(Order(order), shared_bytes);
    }
    return error[0] ? error : nullptr;
}
