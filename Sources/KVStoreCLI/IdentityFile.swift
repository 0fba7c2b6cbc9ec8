import FoundationEssentials
import KVStore

/// A namespace's identity as a JSON object, for commands that name blocks of a prompt. Keys are the fields of
/// `NamespaceIdentity`; tenant and salt are the daemon's to know. A key that is not known is refused: a typo would name
/// another namespace, in which nothing is ever found.
enum IdentityFile {
    /// Reads an identity; the error says which key is wrong.
    static func parse(_ json: [UInt8], name: String) throws(StartError) -> NamespaceIdentity {
        do {
            return try JSONDecoder().decode(Fields.self, from: Data(json)).identity
        } catch let error as StartError {
            throw StartError("\(name): \(error)")
        } catch let DecodingError.keyNotFound(key, _) {
            throw StartError("\(name): the key '\(key.stringValue)' is missing")
        } catch let DecodingError.typeMismatch(_, context) {
            throw StartError("\(name): the value of '\(path(context))' is of the wrong type")
        } catch let DecodingError.dataCorrupted(context) {
            throw StartError("\(name): not a JSON object, or a wrong value of '\(path(context))'")
        } catch {
            throw StartError("\(name): not understood")
        }
    }

    private static func path(_ context: DecodingError.Context) -> String {
        context.codingPath.map(\.stringValue).joined(separator: ".")
    }

    private struct Fields: Decodable {
        var identity: NamespaceIdentity

        enum Key: String, CodingKey, CaseIterable {
            case model, revision, elementType, layers, keyHeads, valueHeads, keyHeadDimension, valueHeadDimension
            case tokensPerBlock, tensorParallelRank, tensorParallelSize, pipelineParallelRank, pipelineParallelSize
            case layoutTag, adapter, additional, opaqueBlockByteCount, storage
        }

        struct AnyKey: CodingKey {
            var stringValue: String
            var intValue: Int? { nil }
            init(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }

        init(from decoder: any Decoder) throws {
            for key in try decoder.container(keyedBy: AnyKey.self).allKeys where Key(rawValue: key.stringValue) == nil {
                let advice =
                    ["tenant", "salt"].contains(key.stringValue)
                    ? "the daemon knows it" : "known are \(Key.allCases.map(\.rawValue).joined(separator: ", "))"
                throw StartError("there is no key '\(key.stringValue)'; \(advice)")
            }
            let fields = try decoder.container(keyedBy: Key.self)
            func number(_ key: Key, _ standard: Int) throws -> Int {
                try fields.decodeIfPresent(Int.self, forKey: key) ?? standard
            }
            func text(_ key: Key, _ standard: String = "") throws -> String {
                try fields.decodeIfPresent(String.self, forKey: key) ?? standard
            }
            let opaque = try fields.decodeIfPresent(Int.self, forKey: .opaqueBlockByteCount)
            let keyHeads = try number(.keyHeads, 0)
            let keyHeadDimension = try number(.keyHeadDimension, 0)
            identity = NamespaceIdentity(
                model: try fields.decode(String.self, forKey: .model),
                revision: try text(.revision),
                elementType: try Self.elementType(try text(.elementType, opaque == nil ? "bf16" : "opaque")),
                layers: try number(.layers, 0),
                keyHeads: keyHeads,
                valueHeads: try number(.valueHeads, keyHeads),
                keyHeadDimension: keyHeadDimension,
                valueHeadDimension: try number(.valueHeadDimension, keyHeadDimension),
                tokensPerBlock: try fields.decode(Int.self, forKey: .tokensPerBlock),
                tensorParallelRank: try number(.tensorParallelRank, 0),
                tensorParallelSize: try number(.tensorParallelSize, 1),
                pipelineParallelRank: try number(.pipelineParallelRank, 0),
                pipelineParallelSize: try number(.pipelineParallelSize, 1),
                layoutTag: try text(.layoutTag, NamespaceIdentity.defaultLayoutTag),
                adapter: try text(.adapter),
                additional: try fields.decodeIfPresent([String: Value].self, forKey: .additional)?.mapValues(\.field)
                    ?? [:],
                opaqueBlockByteCount: opaque,
                storage: try Self.storage(try text(.storage, "lossless"))
            )
        }

        private static func elementType(_ name: String) throws(StartError) -> ElementType {
            if let type = ElementType.allCases.first(where: { "\($0)" == name }) { return type }
            let names = ElementType.allCases.map { "\($0)" }.joined(separator: ", ")
            throw StartError("there is no elementType '\(name)'; choose one of \(names)")
        }

        private static func storage(_ name: String) throws(StartError) -> NamespaceIdentity.Storage {
            if let storage = NamespaceIdentity.Storage.allCases.first(where: { "\($0)" == name }) { return storage }
            throw StartError("there is no storage '\(name)'; choose lossless or int8")
        }
    }

    private struct Value: Decodable {
        let field: NamespaceIdentity.Field

        init(from decoder: any Decoder) throws {
            let value = try decoder.singleValueContainer()
            if let flag = try? value.decode(Bool.self) {
                field = .boolean(flag)
            } else if let number = try? value.decode(Int64.self) {
                field = .integer(number)
            } else {
                field = .string(try value.decode(String.self))
            }
        }
    }
}
