using System.Runtime.Intrinsics.Arm;
using System.Runtime.Intrinsics.X86;
using Diptych.Inference;
using Diptych.Runtimes.Onnx;
using Diptych.Runtimes.Text;

namespace Diptych.Runtimes;

/// <summary>The dual encoder that ships with the product: see models/starter/MODEL_CARD.md.</summary>
public static class StarterModel
{
    public const string TextName = "starter-text";
    public const string ImageName = "starter-image";
    public const int MaxTokens = 256;

    private static readonly Dictionary<string, int> TextOutputs = new() { ["text_embedding"] = 384, ["cross_embedding"] = 256 };
    private static readonly Dictionary<string, int> ImageOutputs = new() { ["embedding"] = 256 };

    /// <summary>The int8 image tower multiplies u8 by s8, which only these instructions do without saturating.</summary>
    public static bool Int8Supported => AvxVnni.IsSupported || Avx512Vnni || Dp.IsSupported;

    private static bool Avx512Vnni => X86Base.IsSupported && Avx512BW.IsSupported && (X86Base.CpuId(7, 0).Ecx & (1 << 11)) != 0;

    /// <param name="directory">Holds text.onnx, image.onnx, image.int8.onnx and vocab.txt.</param>
    /// <param name="int8">Null takes the int8 image tower where the processor supports it.</param>
    /// <exception cref="FileNotFoundException">The directory lacks one of the files.</exception>
    public static (IModelBackend Text, IModelBackend Image, ITokenizer Tokenizer) Open(string directory, bool? int8 = null)
    {
        string image = int8 ?? Int8Supported ? "image.int8.onnx" : "image.onnx";
        foreach (string file in (ReadOnlySpan<string>)["text.onnx", image, "vocab.txt"])
        {
            string path = Path.Combine(directory, file);
            if (!File.Exists(path))
            {
                throw new FileNotFoundException($"The starter model lacks {path}. Point 'Diptych:Models:Starter' at the folder that holds it.", path);
            }
        }
        return (
            OnnxBackend.Text(TextName, Path.Combine(directory, "text.onnx"), MaxTokens, TextOutputs),
            OnnxBackend.Image(ImageName, Path.Combine(directory, image), PixelScaling.Starter, ImageOutputs),
            new WordPieceTokenizer(Path.Combine(directory, "vocab.txt"), MaxTokens));
    }
}
