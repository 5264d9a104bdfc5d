using System.Text.Json;

namespace Diptych.Runtimes.Decoding;

/// <summary>From which files a decoder comes.</summary>
public sealed unsafe partial class Decoder
{
    /// <summary>Opens a GGUF file, or a directory in Hugging Face's layout (config.json and safetensors, sharded or not).</summary>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says what is wrong with it.</exception>
    public static Decoder Open(string path, WeightFormat format = WeightFormat.AsStored) =>
        Read(path, (config, names, find, fileOf) => new Decoder(config, find, fileOf, names, format));

    /// <summary>Reads all but the weights.</summary>
    /// <exception cref="InvalidDataException">It is no model that can be run; the message says what is wrong with it.</exception>
    public static void Check(string path) => Read(path, (_, _, _, _) => true);

    private static T Read<T>(string path, Func<DecoderConfig, TensorNames, Func<string, StoredTensor?>, Func<string, TensorFile>, T> use)
    {
        if (File.Exists(path))
        {
            using var file = new GgufFile(path);
            var shapes = DecoderConfig.FromGguf(file);
            var names = TensorNames.Gguf(shapes);
            DecoderTensors.Check(path, shapes, names, file.Tensors.Keys, n => file.Tensors.TryGetValue(n, out StoredTensor? tensor) ? (tensor, file) : null);
            return use(shapes, names, n => file.Tensors.GetValueOrDefault(n), _ => file);
        }
        string config = System.IO.Path.Combine(path, "config.json");
        if (!File.Exists(config))
        {
            throw new InvalidDataException($"{path} is neither a GGUF file nor a directory with config.json.");
        }
        var described = DecoderConfig.FromJson(config);
        Dictionary<string, TensorFile> files = Files(path);
        try
        {
            var names = TensorNames.HuggingFace(described, files.ContainsKey("language_model.model.embed_tokens.weight"));
            DecoderTensors.Check(path, described, names, files.Keys, n => files.TryGetValue(n, out TensorFile? file) ? (file.Tensors[n], file) : null);
            return use(described, names, n => files.GetValueOrDefault(n)?.Tensors[n], n => files[n]);
        }
        finally
        {
            foreach (TensorFile file in files.Values.Distinct())
            {
                file.Dispose();
            }
        }
    }

    /// <summary>Bytes that a decoder's weights will take in memory: at most, from the headers of its files.</summary>
    /// <param name="path">A GGUF file, or a directory.</param>
    /// <exception cref="InvalidDataException">It is no such file; the message says what is wrong with it.</exception>
    public static long WeightBytes(string path, WeightFormat format)
    {
        TensorFile[] files = File.Exists(path) ? [new GgufFile(path)] : [.. Files(path).Values.Distinct()];
        try
        {
            return files.SelectMany(f => f.Tensors.Values).Sum(tensor =>
            {
                double count = tensor.Shape.Aggregate(1.0, (a, b) => a * b);
                return (long)(format switch
                {
                    not WeightFormat.AsStored when tensor.Columns % WeightMatrix.Block != 0 => count * sizeof(float),
                    WeightFormat.Int8 => count * (1 + (4.0 / WeightMatrix.Block)),
                    WeightFormat.Int4 => count * (0.5 + (8.0 / WeightMatrix.Block)),
                    // What is packed by the file gets scales in single precision.
                    WeightFormat.AsStored => tensor.Type switch { TensorType.F32 or TensorType.F16 or TensorType.BF16 => tensor.Bytes, TensorType.Q8_0 or TensorType.Q6_K => count * (1 + (4.0 / WeightMatrix.Block)), _ => count * (0.5 + (8.0 / WeightMatrix.Block)) },
                    _ => count * sizeof(float),
                });
            });
        }
        finally
        {
            Array.ForEach(files, f => f.Dispose());
        }
    }

    /// <summary>By tensor's name: the file that holds it, of a directory's one or several.</summary>
    internal static Dictionary<string, TensorFile> Files(string directory)
    {
        var files = new Dictionary<string, TensorFile>(StringComparer.Ordinal);
        try
        {
            foreach (string shard in Shards(directory))
            {
                var file = new SafeTensorsFile(shard);
                if (file.Tensors.Keys.FirstOrDefault(files.ContainsKey) is { } twice)
                {
                    file.Dispose();
                    throw new InvalidDataException($"{directory}: there are two tensors '{twice}'.");
                }
                foreach (string tensor in file.Tensors.Keys)
                {
                    files[tensor] = file;
                }
            }
            return files;
        }
        catch
        {
            foreach (TensorFile file in files.Values.Distinct())
            {
                file.Dispose();
            }
            throw;
        }
    }

    private static IEnumerable<string> Shards(string directory)
    {
        string index = System.IO.Path.Combine(directory, "model.safetensors.index.json");
        if (!File.Exists(index))
        {
            string single = System.IO.Path.Combine(directory, "model.safetensors");
            return File.Exists(single) ? [single] : throw new InvalidDataException($"{directory} has no model.safetensors.");
        }
        try
        {
            using var json = JsonDocument.Parse(File.ReadAllBytes(index));
            string[] shards = [.. json.RootElement.GetProperty("weight_map").EnumerateObject().Select(e => System.IO.Path.GetFileName(e.Value.GetString()!)).Distinct(StringComparer.Ordinal).Select(f => System.IO.Path.Combine(directory, f))];
            return Array.Find(shards, s => !File.Exists(s)) is { } missing ? throw new InvalidDataException($"{index} names {System.IO.Path.GetFileName(missing)}, which is not there.") : shards;
        }
        catch (Exception error) when (error is JsonException or KeyNotFoundException or InvalidOperationException or ArgumentException)
        {
            throw new InvalidDataException($"{index} does not say where tensors are: {error.Message}", error);
        }
    }
}
