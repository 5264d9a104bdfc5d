using Google.Protobuf;

namespace Diptych.Runtimes.Onnx;

/// <summary>
/// An ONNX file as the pieces of its protocol buffers, so that what one of its outputs needs can be written as a file of its own. Field numbers
/// are those of onnx.proto. Weights are never held in memory: they are copied from file to file.
/// </summary>
internal sealed class OnnxParts
{
    private readonly string _path;

    /// <summary>Of the model; the graph's place among them is empty.</summary>
    private readonly List<Piece> _model = [];
    private readonly List<Piece> _graph = [];

    /// <exception cref="InvalidDataException">It is no ONNX file.</exception>
    public OnnxParts(string path)
    {
        _path = path;
        using FileStream file = File.OpenRead(path);
        using var input = CodedInputStream.CreateWithLimits(file, int.MaxValue, 64);
        try
        {
            while (!input.IsAtEnd)
            {
                long from = input.Position;
                uint tag = input.ReadTag();
                if (tag != Field.Graph)
                {
                    input.SkipLastField();
                    _model.Add(new Piece(tag, from, input.Position));
                    continue;
                }
                int length = input.ReadLength();
                _model.Add(new Piece(tag, input.Position, input.Position));
                for (long end = input.Position + length; input.Position < end;)
                {
                    _graph.Add(ReadPiece(input));
                }
            }
        }
        catch (Exception error) when (error is InvalidProtocolBufferException or InvalidOperationException)
        {
            throw new InvalidDataException($"{path} is no ONNX file: {error.Message}", error);
        }
    }

    public IEnumerable<string> Outputs => _graph.Where(p => p.Tag == Field.Output).Select(p => p.Name);

    /// <summary>Writes what an output needs as a model with this output alone.</summary>
    public void Cut(string output, string target)
    {
        var needed = new HashSet<string>(StringComparer.Ordinal) { output };
        var kept = new List<Piece>();
        // Nodes stand in the order in which they run.
        foreach (Piece piece in Enumerable.Reverse(_graph.Where(p => p.Node is not null)))
        {
            if (piece.Node!.Outputs.Any(needed.Contains))
            {
                needed.UnionWith(piece.Node.Inputs);
                kept.Add(piece);
            }
        }
        kept.Reverse();
        kept.AddRange(_graph.Where(p => p.Tag switch
        {
            Field.Node or Field.ValueInfo => false,
            Field.Initializer or Field.Input => needed.Contains(p.Name),
            Field.Output => p.Name == output,
            _ => true,
        }));
        using FileStream from = File.OpenRead(_path), to = File.Create(target);
        foreach (Piece piece in _model)
        {
            if (piece.Tag == Field.Graph)
            {
                using var header = new CodedOutputStream(to, leaveOpen: true);
                header.WriteTag(piece.Tag);
                header.WriteLength((int)kept.Sum(p => p.To - p.From));
                header.Flush();
                kept.ForEach(p => Copy(p, from, to));
            }
            else
            {
                Copy(piece, from, to);
            }
        }
    }

    private static Piece ReadPiece(CodedInputStream input)
    {
        long from = input.Position;
        uint tag = input.ReadTag();
        string name = "";
        GraphNode? node = null;
        switch (tag)
        {
            case Field.Node:
                node = GraphNode.Read(input.ReadBytes());
                break;
            case Field.Initializer or Field.Input or Field.Output:
                int length = input.ReadLength();
                for (long end = input.Position + length; input.Position < end;)
                {
                    if (input.ReadTag() == (tag == Field.Initializer ? Field.TensorName : Field.ValueName))
                    {
                        name = input.ReadString();
                    }
                    else
                    {
                        input.SkipLastField();
                    }
                }
                break;
            default:
                input.SkipLastField();
                break;
        }
        return new Piece(tag, from, input.Position) { Name = name, Node = node };
    }

    private static void Copy(Piece piece, FileStream from, FileStream to)
    {
        byte[] buffer = new byte[(int)Math.Min(1 << 20, piece.To - piece.From)];
        from.Position = piece.From;
        for (long left = piece.To - piece.From; left > 0;)
        {
            int read = from.Read(buffer, 0, (int)Math.Min(buffer.Length, left));
            if (read == 0)
            {
                throw new InvalidDataException($"{from.Name} ended while it was read.");
            }
            to.Write(buffer, 0, read);
            left -= read;
        }
    }

    /// <summary>Tags of onnx.proto: field number x 8 + 2, all being messages or texts.</summary>
    private static class Field
    {
        public const uint Graph = (7 << 3) | 2;
        public const uint Node = (1 << 3) | 2, Initializer = (5 << 3) | 2, Input = (11 << 3) | 2, Output = (12 << 3) | 2, ValueInfo = (13 << 3) | 2;
        public const uint TensorName = (8 << 3) | 2, ValueName = (1 << 3) | 2;
        public const uint NodeInput = (1 << 3) | 2, NodeOutput = (2 << 3) | 2, NodeAttribute = (5 << 3) | 2;
        public const uint AttributeGraph = (6 << 3) | 2, AttributeGraphs = (11 << 3) | 2;
    }

    /// <summary>A field with its tag, by its place in the file.</summary>
    private sealed record Piece(uint Tag, long From, long To)
    {
        public string Name { get; init; } = "";

        public GraphNode? Node { get; init; }
    }

    /// <param name="Inputs">Those of graphs within it too, which may use what lies outside of them.</param>
    private sealed record GraphNode(List<string> Inputs, List<string> Outputs)
    {
        public static GraphNode Read(ByteString bytes)
        {
            var node = new GraphNode([], []);
            CodedInputStream input = bytes.CreateCodedInput();
            while (!input.IsAtEnd)
            {
                switch (input.ReadTag())
                {
                    case Field.NodeInput:
                        node.Inputs.Add(input.ReadString());
                        break;
                    case Field.NodeOutput:
                        node.Outputs.Add(input.ReadString());
                        break;
                    case Field.NodeAttribute:
                        node.Inputs.AddRange(Within(input.ReadBytes()));
                        break;
                    default:
                        input.SkipLastField();
                        break;
                }
            }
            return node;
        }

        private static IEnumerable<string> Within(ByteString attribute)
        {
            CodedInputStream input = attribute.CreateCodedInput();
            while (!input.IsAtEnd)
            {
                if (input.ReadTag() is Field.AttributeGraph or Field.AttributeGraphs)
                {
                    CodedInputStream graph = input.ReadBytes().CreateCodedInput();
                    while (!graph.IsAtEnd)
                    {
                        if (graph.ReadTag() == Field.Node)
                        {
                            foreach (string name in Read(graph.ReadBytes()).Inputs)
                            {
                                yield return name;
                            }
                        }
                        else
                        {
                            graph.SkipLastField();
                        }
                    }
                }
                else
                {
                    input.SkipLastField();
                }
            }
        }
    }
}
