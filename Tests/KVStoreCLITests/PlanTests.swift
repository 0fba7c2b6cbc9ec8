import ArgumentParser
import Testing

@testable import KVStoreCLI

@Suite("The size calculator")
struct PlanTests {
    private func plan(_ arguments: String...) throws -> KVSizePlan {
        try PlanCommand.parse(arguments).plan()
    }

    @Test(
        "gives the published bytes per token",
        arguments: [
            // 0.5 MB per token (fp16).
            ("Llama-2-7B", 524_288),
            // DeepSeek-V3, "Insights into DeepSeek-V3" (ISCA 2025), table 1: 70.272, 327.680 and 516.096 KB.
            ("DeepSeek-V3", 70_272), ("DeepSeek-R1", 70_272), ("Qwen2.5-72B", 327_680), ("Llama-3.1-405B", 516_096),
            ("Llama-2-13B", 819_200), ("Llama-2-70B", 327_680), ("Llama-3-8B", 131_072), ("Llama-3-70B", 327_680),
            ("Mistral-7B", 131_072), ("Qwen2.5-7B", 57_344),
        ]
    )
    func published(model: String, bytesPerToken: Int) throws {
        #expect(try plan("--model", model, "--dtype", "fp16").bytesPerToken == bytesPerToken)
    }

    @Test func aBatchOfEightFullLlama2RequestsNeeds27GB() throws {
        let plan = try plan("--model", "llama-2-13b", "--batch", "8", "--tokens", "4096")
        #expect(plan.bytesPerBatch == 26_843_545_600)
    }

    @Test func optionsOverrideThePreset() throws {
        #expect(try plan("--model", "Llama-3-8B", "--dtype", "fp8").bytesPerToken == 65_536)
        #expect(try plan("--model", "Llama-3-8B", "--layers", "16").bytesPerToken == 65_536)
        #expect(
            try plan("--layers", "2", "--kv-heads", "1", "--head-dim", "192", "--value-head-dim", "128").bytesPerToken
                == 1280
        )
    }

    @Test func theLastBlockOfARequestCountsWhole() throws {
        let plan = try plan("--model", "Llama-3-8B", "--tokens", "17", "--block-tokens", "16", "--memory", "10MiB")
        #expect(plan.blocksPerRequest == 2)
        #expect(plan.memory?.blocks == 5)
        #expect(plan.memory?.tokens == 80)
        #expect(plan.memory?.requests == 2)
    }

    @Test(
        "says what to give when something is missing or impossible",
        arguments: [
            ([], "give --model NAME"), (["--model", "GPT-9"], "there are Llama-2-7B"),
            (["--layers", "4", "--kv-heads", "8"], "--head-dim"),
            (["--model", "Llama-3-8B", "--tokens", "0"], "--tokens"),
            (["--layers", "0", "--kv-heads", "8", "--head-dim", "128"], "--layers is 0"),
            (
                ["--layers", "65535", "--kv-heads", "65535", "--head-dim", "65535", "--tokens", "1000000000"],
                "can be counted"
            ), (["--model", "Llama-3-8B", "--memory", "4Q"], "unknown unit"),
        ]
    )
    func errors(arguments: [String], message: String) {
        do {
            _ = try PlanCommand.parse(arguments)
            Issue.record("accepted \(arguments)")
        } catch {
            #expect(PlanCommand.fullMessage(for: error).contains(message))
            #expect(PlanCommand.exitCode(for: error).rawValue == 64)
        }
    }

    @Test func tablesLookLikeTheGoldenFiles() throws {
        try expectGolden(
            "plan-llama-3-8b",
            try plan("--model", "Llama-3-8B", "--tokens", "8192", "--batch", "4", "--memory", "64GiB", "--disk", "1TB")
                .table
        )
        try expectGolden("plan-deepseek-v3", try plan("--model", "DeepSeek-V3", "--tokens", "1000").table)
        try expectGolden("plan-list", PlanCommand.presetTable())
    }

    @Test func jsonHasOneObject() throws {
        try expectGolden("plan-json", try JSONText.encode(plan("--model", "Llama-3-8B", "--memory", "64GiB")))
    }
}
