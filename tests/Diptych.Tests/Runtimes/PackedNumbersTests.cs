using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;
using Diptych.Runtimes.Decoding;
using Xunit;
using Decoder = Diptych.Runtimes.Decoding.Decoder;

namespace Diptych.Tests.Runtimes;

/// <summary>
/// Numbers that GGUF packs, beside what llama.cpp makes of the same bytes: 256 normal numbers, packed by its <c>llama-quantize</c> and
/// unpacked by <c>llama-quantize --allow-requantize … F32</c>.
/// </summary>
public sealed class PackedNumbersTests
{
    [Theory]
    [InlineData(2, nameof(Q4_0))]
    [InlineData(12, nameof(Q4_K))]
    [InlineData(14, nameof(Q6_K))]
    public void Blocks_are_read_as_llama_cpp_reads_them(int type, string name)
    {
        var (packed, numbers) = name switch { nameof(Q4_0) => Q4_0, nameof(Q4_K) => Q4_K, _ => Q6_K };
        ReadOnlySpan<float> expected = MemoryMarshal.Cast<byte, float>(Convert.FromBase64String(numbers));
        string path = Path.Combine(Path.GetTempPath(), $"diptych-{Guid.NewGuid():N}.gguf");
        File.WriteAllBytes(path, Gguf(type, Convert.FromBase64String(packed)));
        try
        {
            using var file = new GgufFile(path);
            float[] read = file.Floats(file.Tensors["w"]);
            float[] input = [.. Enumerable.Range(0, 256).Select(i => MathF.Sin(i))];
            double product = 0;
            for (int i = 0; i < 256; i++)
            {
                Assert.Equal(expected[i], read[i], 1e-6f);
                product += (double)expected[i] * input[i];
            }

            // As stored, the input is rounded to eight bits.
            using var team = new CoreTeam(1);
            using WeightMatrix matrix = WeightMatrix.Load(file, file.Tensors["w"], WeightFormat.AsStored);
            Assert.Equal(product, Multiply(matrix, team, input), 0.02 * Math.Sqrt(256));
        }
        finally
        {
            File.Delete(path);
        }
    }

    [Theory]
    [InlineData(7, 40)]
    [InlineData(12, 96)]
    public unsafe void Sixteen_bits_give_what_the_same_numbers_in_single_precision_give(int rows, int columns)
    {
        var random = new Random(rows);
        // Every exponent, those of numbers below the smallest normal one too, and no infinity.
        ushort[] half = [.. Enumerable.Range(0, rows * columns).Select(i => (ushort)(random.Next(0x7c00) | (i % 3 == 0 ? 0x8000 : 0)))];
        ushort[] brain = [.. half.Select(b => (ushort)(BitConverter.SingleToInt32Bits((float)BitConverter.UInt16BitsToHalf(b)) >> 16))];
        float[] wideHalf = [.. half.Select(b => (float)BitConverter.UInt16BitsToHalf(b))], wideBrain = [.. brain.Select(b => BitConverter.Int32BitsToSingle(b << 16))];
        using var team = new CoreTeam(2);
        using WeightMatrix a = new DenseMatrix<ushort, HalfNumber>(half, rows, columns), b = new DenseMatrix<ushort, BrainNumber>(brain, rows, columns);
        using WeightMatrix c = WeightMatrix.Of(wideHalf, rows, columns), d = WeightMatrix.Of(wideBrain, rows, columns);
        Assert.Equal(c.ByteSize, 2 * a.ByteSize);
        foreach (int n in new[] { 1, 2, 3, 8, 41 })
        {
            float[] x = [.. Enumerable.Range(0, n * columns).Select(i => (float)random.NextDouble() - 0.5f)];
            Assert.Equal(Product(c, x, n), Product(a, x, n));
            Assert.Equal(Product(d, x, n), Product(b, x, n));
        }

        float[] Product(WeightMatrix matrix, float[] x, int n)
        {
            float[] y = new float[n * rows];
            fixed (float* from = x, to = y)
            {
                matrix.Multiply(team, from, n, to);
            }
            return y;
        }
    }

    [Theory]
    [InlineData("llama31-like")]
    [InlineData("llama4-scout-like")]
    public void A_checkpoint_in_sixteen_bits_stays_in_them_and_says_the_same(string name)
    {
        string source = Path.GetDirectoryName(Shared.Require("golden", "tiny", name, "config.json"))!, folder = Directory.CreateTempSubdirectory("diptych-bf16-").FullName;
        File.Copy(Path.Combine(source, "config.json"), Path.Combine(folder, "config.json"));
        byte[] file = File.ReadAllBytes(Path.Combine(source, "model.safetensors"));
        int length = (int)BitConverter.ToInt64(file);
        JsonObject header = JsonNode.Parse(file.AsSpan(8, length))!.AsObject();
        header.Remove("__metadata__");
        foreach (var (_, tensor) in header)
        {
            (tensor!["dtype"], tensor["data_offsets"]) = ("BF16", new JsonArray((long)tensor["data_offsets"]![0]! / 2, (long)tensor["data_offsets"]![1]! / 2));
        }
        byte[] text = Encoding.UTF8.GetBytes(header.ToJsonString());
        ushort[] upper = [.. MemoryMarshal.Cast<byte, ushort>(file.AsSpan(8 + length)).ToArray().Where((_, i) => i % 2 == 1)];
        File.WriteAllBytes(Path.Combine(folder, "model.safetensors"), [.. BitConverter.GetBytes((long)text.Length), .. text, .. MemoryMarshal.AsBytes(upper.AsSpan())]);

        int[] ids = [.. Enumerable.Range(1, 40)];
        using Decoder stored = Decoder.Open(folder), wide = Decoder.Open(folder, WeightFormat.F32);
        Assert.Equal(wide.ByteSize, 2 * stored.ByteSize);
        Assert.Equal(Logits(wide), Logits(stored));
        Directory.Delete(folder, recursive: true);

        float[] Logits(Decoder decoder)
        {
            using var cache = KeyValueBlocks.Holding(decoder.Config, ids.Length);
            using var team = new CoreTeam(2);
            return decoder.Forward([new Stretch(ids, 0, SequenceBlocks.For(cache, ids.Length), AllLogits: true)], cache, team)[..(ids.Length * decoder.Config.Vocabulary)];
        }
    }

    [Theory]
    [InlineData(WeightFormat.AsStored)]
    [InlineData(WeightFormat.Int8)]
    [InlineData(WeightFormat.Int4)]
    [InlineData(WeightFormat.F32)]
    public void What_weights_take_is_known_before_they_are_read(WeightFormat format)
    {
        string path = Path.GetDirectoryName(Shared.Require("golden", "tiny", "llama31-like", "config.json"))!;
        using Decoder decoder = Decoder.Open(path, format);
        Assert.InRange(Decoder.WeightBytes(path, format) / (double)decoder.ByteSize, 1, 1.1);
    }

    private static unsafe float Multiply(WeightMatrix matrix, CoreTeam team, float[] input)
    {
        float result;
        fixed (float* x = input)
        {
            matrix.Multiply(team, x, 1, &result);
        }
        return result;
    }

    /// <summary>A file of one tensor "w" [1, 256].</summary>
    internal static byte[] Gguf(int type, byte[] data)
    {
        using var stream = new MemoryStream();
        using var writer = new BinaryWriter(stream, Encoding.UTF8);
        writer.Write("GGUF"u8);
        writer.Write(3);
        writer.Write(1L);
        writer.Write(0L);
        writer.Write(1L);
        writer.Write("w"u8);
        writer.Write(2);
        writer.Write(256L);
        writer.Write(1L);
        writer.Write(type);
        writer.Write(0L);
        writer.Write(new byte[-stream.Length & 31]);
        writer.Write(data);
        return stream.ToArray();
    }

    private static readonly (string Packed, string Numbers) Q4_0 = (
        "prBTV7e3VpG6sXmSgHOEuFlsvLFtlGyDokxEmglsVIt6umnJYLG5I3u3kKnbS7dYQ6dUxnSKAq5IJf5bxL8Laps7gUtaeSeovTCMiYjZnNWVZ3" +
        "YLnGuqqWiPXbGSprx4amBnaJdTjIXWiVXYOrFSegt6VJeHqDZNmZgpVF+3GbA/YoBcFY27J9M8SrlzZhdM",
        "APA5PwDAFD4AwBQ+AMAUPgDAlD4AKII/AMCUvgAogj8AwBS+ACBfPwDAlD8A8Dk/AMAUPwAAAIAAwBS+AMAUvwAg3z4AIN8+ACDfvgAg374AIN" +
        "8+AMAUvgAg374AIN++AMAUPgDAFL4AAACAAMAUPgAAAIAAIN++ACDfPgDAlD4AYGW/AIA3PwCAN78AYGU/AKCJPwCAN78AgDc/AIC3vgCAN74A" +
        "gDe/AIA3PwCgCb8AgLe+AIC3vgCAN74AgDe+AIC3PgCAN74AgLc+AAAAgACAt74AgDc/AIA3PwCAN74AgLc/AIC3PgCgCT8AAACAAIA3PgCgCb" +
        "8AgLc+AIA3vwAALL4AAFc/AAABvwAALD4AAKw/AAAsvgAAAb8AAAG/AAAsPgAAAIAAAFc/AAAsPgAALD8AAKw+AAAsPwAArL4AAAG/AACBPwAA" +
        "LD4AAAG/AAAsvgAArL4AAFe/AAAsPwAAAb8AAAE/AAAsPwAArL4AAAE/AAAsvwAALD4AAACAAAAAgAAwkD4AMBC/ADCQvgBAwD4AOCi/ADCQvg" +
        "BAQL4AMJC+ADCQvgA4KD8AMJC+AEBAvgBAwL0AQMA9AAAAgABAwD4AMBA/ADgovwAwkD4AQMC+ADCQvgBAQD8AQEA+AEDAvQBQ8D4AAACAAEDA" +
        "PgAwkD4AQMA9ADAQPwBAQL4AoBc/AKAXPgAAAAAAoBc+AKAXPwBw474AcOO+AKAXvgCgl74AcOM+AKAXPwBw4z4AoJc+AKAXPgAAAAAArIQ/AA" +
        "AAAAAAAAAAAAAAAIg9PwCgFz4AiD0/AKAXPgCgl74AoBe+AKCXvwCgFz4AoJe+AKCXPgCglz4AoJe+AAAAAAC4gD8AoKs+AKArvwAAAIAAoKu+" +
        "AKCrPwCgKz4AAACAAKArPgCIVj8AoCu/ALgAPwCgqz4AoCu+ALgAPwAAAIAAoCu+AKCrvgC4AL8AoCs+AKCrPgCgqz4AoKs+AKCrPgCgK74AuA" +
        "A/AAAAgAAAAIAAiFa/AAAAgAC4AD8AiFa/AOB6PwBAp74A4Pq+AECnvgBAJz8AQCc+AEAnPgAAAIAAQKc+ABBRvwBAJ74AAACAAEAnvgBAJz8A" +
        "WJK/AEAnPgDg+j4AQCc+AECnPwBAJz4A4Po+AEAnvgAAAIAAQKe+ABBRPwBAJz8AQCe+AEAnvgDgej8A4Po+AOD6PgDg+r4AeGW/ALBEPwAggz" +
        "8AIAO/ALDEPgDoI78AsMS+ACADPgDoIz8AIAO/ACCDvgAgA74A6CM/ACCDPgAgAz4AIAO/AOgjPwAggz4AAACAALDEPgB4ZT8AAACAALDEvgCw" +
        "RD8A6CO/AOgjPwAgAz8AsMS+ACADPgAggz4AeGU/ACADPw==");

    private static readonly (string Packed, string Numbers) Q4_K = (
        "RxmqJPD+9+Xktuzj//n/Ywu2FsbHLaNOVCy/K0pFVFCZWYJiSaSyUvaElXaFMpkoZawSR68EMlJHRuxHWliKc7LNBqI1M/CaYsl7s6mB11bbiC" +
        "doOvR0Zna6K5qISKduV0c3fIiLiIVGoGhlCWmVBw3l9EW7KFiHyTJmd8arkEjKmI+46nZY1TzLxkaNquq0",
        "AGY0PwCgsD0AoLA9AKCwPQD4Vj4AunM/ANSRvgCyiT8AACW+ABBUPwCHmT8AZjQ/ALwUPwBgGb0AACW+AOgnvwAk6j4AJOo+ACjRvgAo0b4AJO" +
        "o+AAAlvgAo0b4AKNG+AKCwPQAAJb4AYBm9AKCwPQBgGb0AKNG+ACTqPgDQqj4A3Hu/wAhGP8D1Ur8A724/AO9uP4APKr+AIh0/AIawvgBzPb6A" +
        "Dyq/wAhGP4APKr8AhrC+AIawvgBzPb4Acz2+gHjoPgBzPb4ArJY+ANDOvACGsL6AIh0/wAhGPwBzPb7g0LQ/AKyWPoB46D4Avwk+AKyWPkApAb" +
        "+AeOg+gA8qvwB7vr2AKWY/wKcEv4ADQz7wgKk/AF5wvsCnBL/ApwS/gANDPgCMRz2AKWY/gANDPkCZHT8AEqo+QJkdP0C/wL7ApwS/0DiFPwCM" +
        "Rz3ApwS/AHu+vUC/wL4AOE2/QJkdP8CnBL9AovI+YOFBP0C/wL5AovI+4O8ov4ADQz4AjEc9AF6GvYCroT6g1Qq/ADmDvoCroT4APiO/wAm0vo" +
        "DQJL4AOYO+ADmDvkB3Mj8AOYO+gNAkvoDQJL4AFAA+AJTzPEB80j6ApgE/AD4jv4CroT7ACbS+wAm0vqDfSj+AtWE+AF6GvYCmAT8AlPM8QHzS" +
        "PoCroT4AFAA+4A4aP4DQJL5gUCM/AIwaPgAIO7wAjBo+gILzPgAz/74AM/++AO0xvgDtMb6AgvM+YFAjP4CC8z4AjBo+AIwaPgAIO7zg/o8/AA" +
        "g7vAAIO7wACDu8gN9MPwCMGj5gUCM/AIwaPsAUrL4A7TG+AOuSvwCMGj7AFKy+QGSgPkBkoD7AFKy+AAg7vDDNhj8AMqM+QAIQvwCozDzA0NS+" +
        "EGesP4D8Lz4AqMw8gPwvPqBmQj9AAhC/wGXuPgAyoz4AnYm+wMwcPwCozDwApfm9AJ2JvsDQ1L6A/C8+ADKjPgAyoz4AMqM+ADKjPgCdib7AzB" +
        "w/AKjMPACozDwANlu/AKjMPMBl7j4ANlu/oG52P8AUrL4AM/++wBSsvmBQIz8AjBo+AIwaPgAIO7xAZKA+wLdSvwDtMb4ACDu8AO0xvmBQIz8A" +
        "65K/AIwaPoCC8z4AjBo+cMakPwCMGj6AgvM+AO0xvgCMGj7AFKy+gN9MP2BQIz8A7TG+AO0xvqBudj+AgvM+gILzPgAz/74A3Hu/wCRbP2DJfD" +
        "8Ak+q+wG3sPsCSOL/ASae+AEiKPYDbFz8g7ha/AAFIvgDdgr2A2xc/gCSpPoC2Sz4Ak+q+gNsXP4C2Sz4ASIo9wG3sPsAkWz8A3YK9wEmnviCA" +
        "OT8g7ha/gNsXP4DbFz8Ak+q+AEiKPYAkqT7AJFs/wG3sPg==");

    private static readonly (string Packed, string Numbers) Q6_K = (
        "PL3N3hlVuMPE6sDNEHEUgRAV2hs0ypy6KAmU2RE6h/svGZm0APfre8XEBrOLa6bn56XoQQjiD2QwuvT+SsuHf8B8L40hXW30d5XP4qo8H1FOzw" +
        "DERDPmh8wQMlipOkjQ2Hge8ElRrO/aHn426Haz8LqF/hQMHMppWKXR4dBQE9GsQe2RQeyiqJqcAJyZmlprNAjXe+imM0uxFkYlVnsUmPEVGZl5" +
        "4qZWJsGYlRV5RagVVUJbGquaKcUcKqlCWh0imNOngIWlwr2YaYRNZouir74N",
        "AJ86PwDy3z0A8t89AEyVPYCigj5A8Hs/AEyVvuBMhz8ATBW+gEhNPwBMlT9ASjE/AEwVPwBMFb0ATBW+wKAevwAzAT8QBto+4PLRvhAG2r5AGe" +
        "I+wH8hvkAZ4r7g8tG+ADMBPmBZEb4AM4G9QBniPQAzgbzg8tG+sN/JPvCSqT7Iine/CKk3P3ihR78gll8/AId/PwipN7+YsCc/0KyvvmC0H75g" +
        "tB+/sJ1PPyi4F7/QrK++0KyvvkClP74gll++ALjOPgCwZb4AwLc+AMA3vQDAt74AyCA/ADxDPwDAN74AwLc/ANCJPgDQCT8AwLc9ANCJPgCo/L" +
        "4AuM4+AEQsv+BtBL5IwGc/4G0Ev+BtBD7sDas/ILdcvnDJ8r7gbQS/gJIwPoCSsD0gt1w/gJIwPliJJT/QpMY+WIklP4CSsL6ozAq/2Bp9P8Dz" +
        "wz2ozAq/wPPDvcDzw77oHUy/SHUrP9D2Er+AogI/mMk7PxBI1L6w8PQ++CAbv4Cigj6AogI9AAIyveDhpj6QEQu/wMJ0vgACsj7wcSy/wMGbvs" +
        "DBG76AgYW+gIGFvgACMj/AwnS+AAIyvoCBBb6AgQU+AAIyPaBo2D7wPwQ/MFc0v8BFkD4AXcC+YFGovgBdQD9AdHA+wEWQvRB6/D4AXcA80GLM" +
        "PsBFkD4AXcA9wEUQP2BRKL4ATBU/AEwVPgBMFT0A8t89QPcLP4Cb8r6Am/K+AEwVvoCigr6ASM0+wKAeP4CiAj8A8l8+AEwVPgBMFT2goZA/gL" +
        "uWvYC7Fr0AAAAAYGo8P4C7Fj6o/jI/QBliPvCSqb6Auxa+gLuWv4C7lj2Au5a+8JKpPmBqvD6Au5a+AAAAAICBhT8AArI+wMEbvwAAAIBAQsi+" +
        "8HGsPwACMj4AAjI9gIGFPkBCSD/AwRu/gILePgACsj6AgYW+oKEQPwAAAIBAziW+EP2XvmC1+L4AE909QM6lPkDOpT7gK4o+YLV4PgATXb54FB" +
        "E/ABPdPAAT3TwAE12/AAAAAEhDAz9oKla/YB+AP6C6pL5gHwC/AG2SvqC6JD9ACDc+gKNbPgBtEr1gH4A+sHxSvwBtEr4AbZK9gKNbvnDhLT+Y" +
        "2Y2/QAg3PkDw+z6A9Sc+gPWnP4D1Jz5A8Ps+QPD7vYD1pz2A9ae+4PJRPyh2HT9A8Pu94PJRvpDxZj94dwg/QPD7Pnh3CL/QlHS/kNhSP3i5gj" +
        "/gA/2+gGnKPlAcMb9Arai+APGGPTA+ID8QYA+/wCVsvoBpyr0gzxc/IM+XPkCtKD7gA/2+2J0YPwCPaD4Aj+g8EAbaPgCPaD8Aj+i8QGuuvjD0" +
        "PD/YnRi/UOIfP+gUCj8gfcu+QGuuPVDinz6ISmE/6BQKPw==");
}
