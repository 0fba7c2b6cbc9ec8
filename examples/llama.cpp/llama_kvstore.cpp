// Prompt in, text out, with llama.cpp; the KV of the prompt comes from kvstore where it is stored, and is stored where
// it is not. Any GGUF model will do that keeps nothing but KV of single tokens; others are refused.
//
// llama.cpp gives out the state of a whole sequence only. A block of a prompt is therefore copied to a scratch sequence
// first (which moves no data: both share their cells), and the state of that is the block's bytes: positions, then the
// keys of all layers, then the values. Restoring goes the other way round.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <ggml.h>
#include <kvstore.h>
#include <llama.h>

namespace {

using Clock = std::chrono::steady_clock;
using Tokens = std::vector<llama_token>;

double milliseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Of all threads of this process.
double processor_milliseconds() {
    timespec used = {};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) * 1e3 + static_cast<double>(used.tv_nsec) / 1e6;
}

[[noreturn]] void fail(const std::string &message) { throw std::runtime_error(message); }

// ---- What the command line says ------------------------------------------------------------------------------------

struct Options {
    std::string model, socket, prompt = "Hello", revision, logits_path;
    int predict = 32, threads = 2, context = 8192, tokens_per_block = 128, timeout_milliseconds = 1000;
    int change_block = -1;
    bool verify = false, json = false, pause = false;
};

const char *const usage =
    "usage: llama_kvstore --model FILE.gguf [--socket PATH] [--prompt TEXT | --prompt-file FILE] [--predict N]\n"
    "    [--threads N] [--context TOKENS] [--block TOKENS] [--timeout MILLISECONDS] [--revision TEXT]\n"
    "    [--logits FILE] [--verify] [--json] [--pause] [--change-block N]\n"
    "Without --socket nothing is looked up or stored. --logits writes those of the first token. --verify reads every\n"
    "restored block back and compares it. --pause says `restored` to standard error when blocks were restored, and\n"
    "waits for a line. --change-block stores block N with other content: only for tests, which must notice.\n";

std::string contents_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail("cannot read " + path);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
}

Options parse(int count, char **arguments) {
    Options options;
    std::map<std::string, std::string *> texts = {
        {"--model", &options.model}, {"--socket", &options.socket}, {"--prompt", &options.prompt},
        {"--revision", &options.revision}, {"--logits", &options.logits_path},
    };
    std::map<std::string, int *> numbers = {
        {"--predict", &options.predict}, {"--threads", &options.threads}, {"--context", &options.context},
        {"--block", &options.tokens_per_block}, {"--timeout", &options.timeout_milliseconds},
        {"--change-block", &options.change_block},
    };
    std::map<std::string, bool *> flags = {
        {"--verify", &options.verify}, {"--json", &options.json}, {"--pause", &options.pause},
    };
    for (int i = 1; i < count; ++i) {
        const std::string name = arguments[i];
        if (flags.count(name)) {
            *flags[name] = true;
        } else if (i + 1 == count) {
            fail(usage);
        } else if (texts.count(name)) {
            *texts[name] = arguments[++i];
        } else if (numbers.count(name)) {
            *numbers[name] = std::atoi(arguments[++i]);
        } else if (name == "--prompt-file") {
            options.prompt = contents_of(arguments[++i]);
        } else {
            fail(usage);
        }
    }
    if (options.model.empty() || options.tokens_per_block < 1) fail(usage);
    return options;
}

// ---- The engine ----------------------------------------------------------------------------------------------------

// Why a model cannot be stored in blocks of so many tokens; empty if it can.
std::string refusal_of(const llama_model *model, int tokens_per_block) {
    // The state at a block's end is none of single tokens, and llama.cpp only has the one after the last token.
    if (llama_model_is_recurrent(model)) return "a recurrent model has no KV per token";
    if (llama_model_is_hybrid(model)) return "a hybrid model has layers without KV per token";
    if (llama_model_has_encoder(model)) return "the KV of a model with an encoder depends on more than its tokens";
    if (llama_model_is_diffusion(model)) return "a diffusion model changes tokens that it has computed";
    // Sliding windows keep all positions here, but the state of a range leaves out what its last token does not see.
    const int window = llama_model_n_swa(model);
    if (window <= 0 || window >= tokens_per_block) return "";
    return "this model looks at " + std::to_string(window) + " tokens; make blocks of no more with --block";
}

// llama.cpp with one sequence that the prompt lives in, and one to move blocks through.
class Engine {
public:
    static constexpr llama_seq_id main_sequence = 0, scratch_sequence = 1;
    // Batches end at multiples of this, wherever they begin: a prompt is cut the same way whatever was restored.
    static constexpr int batch_tokens = 512;

    explicit Engine(const Options &options) {
        llama_backend_init();
        llama_log_set([](ggml_log_level level, const char *text, void *) {
            if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
        }, nullptr);
        model_ = llama_model_load_from_file(options.model.c_str(), llama_model_default_params());
        if (!model_) fail("cannot load " + options.model);
        const std::string reason = refusal_of(model_, options.tokens_per_block);
        if (!reason.empty()) fail(reason);
        context_ = llama_init_from_model(model_, parameters(options));
        if (!context_) fail("cannot make a context");
    }

    ~Engine() {
        if (context_) llama_free(context_);
        if (model_) llama_model_free(model_);
        llama_backend_free();
    }

    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    const llama_model *model() const { return model_; }
    const llama_vocab *vocabulary() const { return llama_model_get_vocab(model_); }

    Tokens tokenize(const std::string &text) const {
        const int size = static_cast<int>(text.size());
        // Without room it says how many there are, as a negative number.
        Tokens tokens(-llama_tokenize(vocabulary(), text.data(), size, nullptr, 0, true, true));
        const auto room = static_cast<int>(tokens.size());
        if (llama_tokenize(vocabulary(), text.data(), size, tokens.data(), room, true, true) != room || room == 0) {
            fail("the prompt cannot be tokenized");
        }
        return tokens;
    }

    std::string text_of(llama_token token) const {
        char piece[256];
        const int size = llama_token_to_piece(vocabulary(), token, piece, sizeof piece, 0, true);
        return size > 0 ? std::string(piece, size) : std::string();
    }

    // Computes the tokens from `begin` to `end`; those before must be in the cache.
    void compute(const Tokens &tokens, size_t begin, size_t end) {
        while (begin < end) {
            const size_t stop = std::min(end, (begin / batch_tokens + 1) * batch_tokens);
            auto *first = const_cast<llama_token *>(tokens.data() + begin);
            if (llama_decode(context_, llama_batch_get_one(first, static_cast<int>(stop - begin)))) {
                fail("llama_decode failed");
            }
            begin = stop;
        }
    }

    std::vector<float> logits() const {
        const float *values = llama_get_logits_ith(context_, -1);
        return std::vector<float>(values, values + llama_vocab_n_tokens(vocabulary()));
    }

    // Models may have other rotations of positions for contexts longer than the one they were trained with.
    bool has_long_context() const {
        return llama_n_ctx_seq(context_) > static_cast<uint32_t>(original_context());
    }

    void clear() { llama_memory_clear(memory(), true); }

    // Bytes of the state of `count` tokens. It grows by the same amount with every token, so two tokens tell.
    size_t state_bytes(size_t count) {
        Tokens tokens(2, std::max(0, llama_vocab_bos(vocabulary())));
        compute(tokens, 0, 1);
        const size_t one = llama_state_seq_get_size(context_, main_sequence);
        compute(tokens, 1, 2);
        const size_t two = llama_state_seq_get_size(context_, main_sequence);
        clear();
        return one + (count - 1) * (two - one);
    }

    // Writes the state of the tokens at positions `begin` to `end`. False if it has not exactly `size` bytes.
    bool read_block(size_t begin, size_t end, void *bytes, size_t size) {
        const auto first = static_cast<llama_pos>(begin), last = static_cast<llama_pos>(end);
        llama_memory_seq_cp(memory(), main_sequence, scratch_sequence, first, last);
        const size_t needed = llama_state_seq_get_size(context_, scratch_sequence);
        const size_t written = needed != size ? 0 : llama_state_seq_get_data(
            context_, static_cast<uint8_t *>(bytes), size, scratch_sequence);
        llama_memory_seq_rm(memory(), scratch_sequence, -1, -1);
        return written == size;
    }

    // Puts the state of a block behind what the main sequence holds already.
    bool write_block(const void *bytes, size_t size) {
        const auto *state = static_cast<const uint8_t *>(bytes);
        if (llama_state_seq_set_data(context_, state, size, scratch_sequence) != size) return false;
        llama_memory_seq_cp(memory(), scratch_sequence, main_sequence, -1, -1);
        llama_memory_seq_rm(memory(), scratch_sequence, -1, -1);
        return true;
    }

private:
    int original_context() const {
        char architecture[128] = "", text[64] = "";
        llama_model_meta_val_str(model_, "general.architecture", architecture, sizeof architecture);
        const std::string key = std::string(architecture) + ".rope.scaling.original_context_length";
        const bool is_given = llama_model_meta_val_str(model_, key.c_str(), text, sizeof text) > 0;
        return is_given ? std::atoi(text) : llama_model_n_ctx_train(model_);
    }

    static llama_context_params parameters(const Options &options) {
        llama_context_params parameters = llama_context_default_params();
        parameters.n_ctx = options.context;
        parameters.n_batch = batch_tokens;
        parameters.n_ubatch = batch_tokens;
        parameters.n_seq_max = 2;
        parameters.n_threads = options.threads;
        parameters.n_threads_batch = options.threads;
        parameters.kv_unified = true;  // one pool of cells, so that sequences can share them
        parameters.swa_full = true;    // sliding windows keep all positions, so that every block is whole
        return parameters;
    }

    llama_memory_t memory() const { return llama_get_memory(context_); }

    llama_model *model_ = nullptr;
    llama_context *context_ = nullptr;
};

// ---- The store -----------------------------------------------------------------------------------------------------

uint64_t fnv1a(const void *bytes, size_t count, uint64_t hash = 14695981039346656037ull) {
    const auto *byte = static_cast<const unsigned char *>(bytes);
    for (size_t i = 0; i < count; ++i) hash = (hash ^ byte[i]) * 1099511628211ull;
    return hash;
}

std::string hexadecimal(uint64_t number) {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(number));
    return text;
}

// A name for the file's content: its size, and 64 KiB from each of 64 places. For files that nobody forges.
std::string revision_of(const std::string &path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const auto size = static_cast<uint64_t>(file.tellg());
    uint64_t hash = fnv1a(&size, sizeof size);
    std::vector<char> sample(64 << 10);
    for (uint64_t place = 0; place < 64; ++place) {
        file.clear();
        file.seekg(static_cast<std::streamoff>(size / 64 * place));
        file.read(sample.data(), static_cast<std::streamsize>(sample.size()));
        hash = fnv1a(sample.data(), static_cast<size_t>(file.gcount()), hash);
    }
    return hexadecimal(hash);
}

// A name for all that the file says of how to compute, such as rotations, but for lists. The revision may not cover it:
// whoever changes a number may keep the name.
std::string metadata_of(const llama_model *model) {
    const auto text = [model](auto read, int index) {
        std::string value(static_cast<size_t>(std::max(0, read(model, index, nullptr, 0))) + 1, '\0');
        read(model, index, value.data(), value.size());
        return value;
    };
    std::map<std::string, std::string> values;  // in an order that is always the same
    for (int index = 0; index < llama_model_meta_count(model); ++index) {
        values[text(llama_model_meta_key_by_index, index)] = text(llama_model_meta_val_str_by_index, index);
    }
    uint64_t hash = fnv1a(nullptr, 0);
    for (const auto &[key, value] : values) {
        hash = fnv1a(value.data(), value.size(), fnv1a(key.data(), key.size(), hash));
    }
    return hexadecimal(hash);
}

// Points to the text.
kvstore_field text_field(const char *name, const std::string &text) {
    kvstore_field field = {};
    field.name = name;
    field.type = KVSTORE_FIELD_TEXT;
    field.bytes = text.data();
    field.byte_count = text.size();
    return field;
}

// What was done with the blocks of a prompt.
struct Report {
    size_t stored_blocks = 0, restored_blocks = 0, disk_blocks = 0, block_bytes = 0;
    double restore_milliseconds = 0, store_milliseconds = 0, store_processor_milliseconds = 0;
    double longest_call_milliseconds = 0;
    bool verified = true;
    std::map<size_t, uint64_t> stored_digests, restored_digests;
};

// The blocks of one model in a daemon. A daemon that is not there is a miss, never an error.
class Blocks {
public:
    Blocks(const Options &options, Engine &engine, Report &report)
        : options_(options), engine_(engine), report_(report), tokens_per_block_(options.tokens_per_block) {
        bytes_ = engine.state_bytes(tokens_per_block_);  // also without a store, since it warms the engine up
        if (options.socket.empty()) return;
        report.block_bytes = bytes_;
        kvstore_connect_options connect = {};
        connect.struct_size = sizeof connect;
        connect.socket_path = options.socket.c_str();
        connect.timeout_milliseconds = options.timeout_milliseconds;
        connect.client_name = "llama.cpp";
        if (kvstore_connect(&connect, &store_) != KVSTORE_OK) fail(kvstore_last_error());
        timed([&] { open_namespace(); });
    }

    ~Blocks() {
        if (store_) kvstore_close(store_);
    }

    Blocks(const Blocks &) = delete;
    Blocks &operator=(const Blocks &) = delete;

    // Restores leading blocks of the tokens, at least one token short of all. Returns how many tokens are there now.
    size_t restore(const Tokens &tokens) {
        const size_t most = (tokens.size() - 1) / tokens_per_block_;
        if (!space_ || most == 0) return 0;
        std::vector<const void *> places(most);
        kvstore_lease lease = 0;
        size_t count = 0;
        const kvstore_prefix prefix = prefix_of(tokens, most);
        const auto status = timed([&] {
            return kvstore_acquire(space_, &prefix, 0, &lease, places.data(), most, &count);
        });
        if (status != KVSTORE_OK) return 0;
        count_tiers(lease, count);
        size_t restored = 0;
        while (restored < count && engine_.write_block(places[restored], bytes_)) ++restored;
        if (options_.verify) verify(places, restored);
        // A process that was stopped for too long may have read what was somebody else's by then.
        if (kvstore_lease_is_current(lease) != KVSTORE_OK) {
            engine_.clear();
            restored = 0;
        }
        kvstore_release(lease);
        report_.restored_blocks = restored;
        return restored * tokens_per_block_;
    }

    // Stores the blocks of the tokens that are missing; all tokens must be in the cache.
    void store(const Tokens &tokens) {
        const size_t most = tokens.size() / tokens_per_block_;
        if (!space_ || most == 0) return;
        // As many at a time as the daemon has room to prepare.
        while (store_some(tokens, most)) {}
    }

private:
    void open_namespace() {
        char description[256];
        llama_model_desc(engine_.model(), description, sizeof description);
        const std::string revision = options_.revision.empty() ? revision_of(options_.model) : options_.revision;
        const std::string metadata = metadata_of(engine_.model());
        const std::string state = std::to_string(LLAMA_STATE_SEQ_VERSION), isa = llama_print_system_info();
        const std::string context = engine_.has_long_context() ? "long" : "usual";
        const std::string kernels = std::string(ggml_version()) + " " + ggml_commit();
        // The bytes depend on the file, on the form of the state, and on the kernels that computed them.
        const kvstore_field fields[] = {
            text_field("metadata", metadata), text_field("context", context), text_field("state version", state),
            text_field("kernels", kernels), text_field("system", isa),
        };
        kvstore_identity identity = {};
        identity.struct_size = sizeof identity;
        identity.element_type = KVSTORE_FP16;
        identity.model = description;
        identity.revision = revision.c_str();
        identity.layout_tag = "llama.cpp sequence state";
        identity.tokens_per_block = static_cast<uint32_t>(tokens_per_block_);
        identity.opaque_block_bytes = bytes_;
        identity.fields = fields;
        identity.field_count = std::size(fields);
        const kvstore_status status = kvstore_namespace_open(store_, &identity, &space_, nullptr);
        if (status != KVSTORE_OK) std::fprintf(stderr, "without the store: %s\n", kvstore_last_error());
    }

    kvstore_prefix prefix_of(const Tokens &tokens, size_t blocks) const {
        static_assert(sizeof(llama_token) == sizeof(uint32_t), "token ids are 32 bits wide");
        const auto *ids = reinterpret_cast<const uint32_t *>(tokens.data());
        return kvstore_prefix_of_tokens(ids, blocks * tokens_per_block_);
    }

    bool store_some(const Tokens &tokens, size_t most) {
        std::vector<void *> places(most);
        std::vector<uint32_t> numbers(most);
        kvstore_reservation reservation = 0;
        size_t count = 0, visible = 0;
        const kvstore_prefix prefix = prefix_of(tokens, most);
        const auto status = timed([&] {
            return kvstore_reserve(space_, &prefix, &reservation, numbers.data(), places.data(), most, &count);
        });
        if (status != KVSTORE_OK) return false;
        for (size_t i = 0; i < count; ++i) {
            const size_t begin = numbers[i] * tokens_per_block_;
            if (!engine_.read_block(begin, begin + tokens_per_block_, places[i], bytes_)) {
                kvstore_abandon(reservation);
                return false;
            }
            if (static_cast<int>(numbers[i]) == options_.change_block) change(places[i]);
            if (options_.verify) report_.stored_digests[numbers[i]] = fnv1a(places[i], bytes_);
        }
        timed([&] { return kvstore_commit(reservation, &visible); });
        report_.stored_blocks += visible;
        return visible > 0;
    }

    // Rotates 32 KiB of the first layer's values, which begin after the keys of all layers.
    void change(void *place) const {
        auto *values = static_cast<unsigned char *>(place) + bytes_ / 2 + 4096;
        const size_t size = std::min<size_t>(32 << 10, bytes_ / 4);
        std::rotate(values, values + size / 3 / 64 * 64, values + size);
    }

    // What is in the cache now must be what was restored, byte for byte and at its positions.
    void verify(const std::vector<const void *> &places, size_t count) {
        std::vector<unsigned char> again(bytes_);
        for (size_t i = 0; i < count; ++i) {
            const size_t begin = i * tokens_per_block_;
            report_.restored_digests[i] = fnv1a(places[i], bytes_);
            if (!engine_.read_block(begin, begin + tokens_per_block_, again.data(), bytes_) ||
                std::memcmp(again.data(), places[i], bytes_) != 0) {
                report_.verified = false;
            }
        }
    }

    void count_tiers(kvstore_lease lease, size_t count) {
        std::vector<uint8_t> tiers(count);
        if (kvstore_lease_blocks(lease, 0, count, nullptr, tiers.data()) != KVSTORE_OK) return;
        report_.disk_blocks = static_cast<size_t>(std::count(tiers.begin(), tiers.end(), KVSTORE_DISK));
    }

    template <typename Call>
    auto timed(Call call) -> decltype(call()) {
        struct Timer {
            double &longest;
            Clock::time_point start = Clock::now();
            ~Timer() { longest = std::max(longest, milliseconds_since(start)); }
        } timer{report_.longest_call_milliseconds};
        return call();
    }

    const Options &options_;
    Engine &engine_;
    Report &report_;
    const size_t tokens_per_block_;
    size_t bytes_ = 0;
    kvstore_store store_ = 0;
    kvstore_namespace space_ = 0;
};

// ---- One request ---------------------------------------------------------------------------------------------------

struct Answer {
    Tokens tokens;
    std::string text;
    std::vector<float> logits;
    size_t prompt_tokens = 0;
    double first_token_milliseconds = 0, first_token_processor_milliseconds = 0;
};

llama_token greedy(const std::vector<float> &logits) {
    return static_cast<llama_token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

void pause() {
    std::fputs("restored\n", stderr);
    for (int byte = 0; byte != EOF && byte != '\n';) byte = std::getchar();
}

Answer answer(const Options &options, Engine &engine, Blocks &blocks, Report &report) {
    Answer answer;
    Tokens tokens = engine.tokenize(options.prompt);
    answer.prompt_tokens = tokens.size();
    if (tokens.size() + options.predict > static_cast<size_t>(options.context)) fail("the prompt is too long");

    const auto start = Clock::now();
    const double start_processor = processor_milliseconds();
    size_t known = blocks.restore(tokens);
    report.restore_milliseconds = milliseconds_since(start);
    if (options.pause) pause();
    // Whole blocks first and the rest alone, whether or not anything was restored: then the last batch, and with it the
    // logits, are the same bit for bit.
    const size_t whole = (tokens.size() - 1) / options.tokens_per_block * options.tokens_per_block;
    engine.compute(tokens, known, whole);
    engine.compute(tokens, whole, tokens.size());
    answer.logits = engine.logits();
    answer.tokens.push_back(greedy(answer.logits));
    answer.first_token_milliseconds = milliseconds_since(start);
    answer.first_token_processor_milliseconds = processor_milliseconds() - start_processor;

    while (static_cast<int>(answer.tokens.size()) < options.predict) {
        if (llama_vocab_is_eog(engine.vocabulary(), answer.tokens.back())) break;
        tokens.push_back(answer.tokens.back());
        engine.compute(tokens, tokens.size() - 1, tokens.size());
        answer.tokens.push_back(greedy(engine.logits()));
    }
    for (llama_token token : answer.tokens) answer.text += engine.text_of(token);

    const auto store_start = Clock::now();
    const double store_processor = processor_milliseconds();
    blocks.store(tokens);
    report.store_milliseconds = milliseconds_since(store_start);
    report.store_processor_milliseconds = processor_milliseconds() - store_processor;
    return answer;
}

// ---- Output --------------------------------------------------------------------------------------------------------

void print_digests(const char *name, const std::map<size_t, uint64_t> &digests) {
    std::printf(", \"%s\": {", name);
    const char *comma = "";
    for (const auto &[block, digest] : digests) {
        std::printf("%s\"%zu\": \"%016llx\"", comma, block, static_cast<unsigned long long>(digest));
        comma = ", ";
    }
    std::printf("}");
}

void print_json(const Answer &answer, const Report &report) {
    std::printf("{\"promptTokens\": %zu, \"tokens\": [", answer.prompt_tokens);
    const char *comma = "";
    for (llama_token token : answer.tokens) {
        std::printf("%s%d", comma, token);
        comma = ", ";
    }
    const uint64_t logits = fnv1a(answer.logits.data(), answer.logits.size() * sizeof(float));
    std::printf("], \"logitsDigest\": \"%016llx\"", static_cast<unsigned long long>(logits));
    std::printf(", \"firstTokenMilliseconds\": %.2f", answer.first_token_milliseconds);
    std::printf(", \"firstTokenProcessorMilliseconds\": %.2f", answer.first_token_processor_milliseconds);
    std::printf(", \"restoreMilliseconds\": %.2f", report.restore_milliseconds);
    std::printf(", \"storeMilliseconds\": %.2f", report.store_milliseconds);
    std::printf(", \"storeProcessorMilliseconds\": %.2f", report.store_processor_milliseconds);
    std::printf(", \"longestCallMilliseconds\": %.2f", report.longest_call_milliseconds);
    std::printf(", \"blockBytes\": %zu, \"restoredBlocks\": %zu", report.block_bytes, report.restored_blocks);
    std::printf(", \"diskBlocks\": %zu, \"storedBlocks\": %zu", report.disk_blocks, report.stored_blocks);
    std::printf(", \"verified\": %s", report.verified ? "true" : "false");
    print_digests("storedDigests", report.stored_digests);
    print_digests("restoredDigests", report.restored_digests);
    std::printf("}\n");
}

void print_text(const Answer &answer, const Report &report) {
    std::printf("%s\n", answer.text.c_str());
    std::fprintf(
        stderr, "%zu prompt tokens; %zu blocks restored (%zu from disk) in %.1f ms; first token after %.1f ms; "
        "%zu blocks of %zu bytes stored in %.1f ms\n",
        answer.prompt_tokens, report.restored_blocks, report.disk_blocks, report.restore_milliseconds,
        answer.first_token_milliseconds, report.stored_blocks, report.block_bytes, report.store_milliseconds);
}

void write_logits(const std::string &path, const std::vector<float> &logits) {
    std::ofstream file(path, std::ios::binary);
    const auto size = static_cast<std::streamsize>(logits.size() * sizeof(float));
    file.write(reinterpret_cast<const char *>(logits.data()), size);
    if (!file) fail("cannot write " + path);
}

}  // namespace

int main(int count, char **arguments) {
    try {
        const Options options = parse(count, arguments);
        Report report;
        Engine engine(options);
        Blocks blocks(options, engine, report);
        const Answer result = answer(options, engine, blocks, report);
        if (!options.logits_path.empty()) write_logits(options.logits_path, result.logits);
        options.json ? print_json(result, report) : print_text(result, report);
        return report.verified ? 0 : 1;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "llama_kvstore: %s\n", error.what());
        return 2;
    }
}
