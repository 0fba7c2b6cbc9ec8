/// Why a model cannot be used: one sentence with the file's name.
struct ModelError: Error, CustomStringConvertible, Hashable {
    let description: String
    init(_ description: String) { self.description = description }
}
