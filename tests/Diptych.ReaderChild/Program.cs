using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Diptych.Core;
using Diptych.Reading;
using Diptych.Reading.Processes;

// A process that reads as the product's does, with a reader that does what the file's name says.
return ReaderProgram.Run(limits =>
{
    var sound = new InProcessReader(limits);
    return (file, mediaType, fullSide, cancellation) => Path.GetFileNameWithoutExtension(file.Name) switch
    {
        "allocate" => Misbehaviour.Allocate(),
        "native" => Misbehaviour.AllocateNative(),
        "recurse" => Misbehaviour.Recurse(0),
        "spin" => Misbehaviour.Spin(),
        "sleep" => Misbehaviour.Sleep(),
        "write" => Misbehaviour.Write(),
        "giant" => [new ReadPart.Content(new Block(BlockKind.Paragraph, new string('x', 40_000_000)))],
        "garbage" => Misbehaviour.Garbage(),
        "exit" => Misbehaviour.Exit(),
        "abort" => Misbehaviour.Abort(),
        "throw" => throw new InvalidOperationException("A bug in a reader."),
        _ => sound.ReadOne(file, mediaType, fullSide, cancellation),
    };
});

internal static class Misbehaviour
{
    public static IEnumerable<ReadPart> Allocate()
    {
        var kept = new List<byte[]>();
        while (true)
        {
            byte[] more = new byte[8 << 20];
            Array.Fill(more, (byte)1);
            kept.Add(more);
        }
    }

    public static unsafe IEnumerable<ReadPart> AllocateNative()
    {
        while (true)
        {
            NativeMemory.Fill(NativeMemory.Alloc(8 << 20), 8 << 20, 1);
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    public static IEnumerable<ReadPart> Recurse(int depth) => [.. Recurse(depth + 1), .. Recurse(depth + 2)];

    public static IEnumerable<ReadPart> Spin()
    {
        for (ulong i = 0; ; i++)
        {
            GC.KeepAlive(i);
        }
    }

    public static IEnumerable<ReadPart> Sleep()
    {
        new ManualResetEventSlim().Wait();
        return [];
    }

    public static IEnumerable<ReadPart> Write()
    {
        while (true)
        {
            yield return new ReadPart.Content(new Block(BlockKind.Paragraph, new string('y', 10_000)));
        }
    }

    public static IEnumerable<ReadPart> Garbage()
    {
        using Stream output = Console.OpenStandardOutput();
        output.Write("this is no frame of the protocol, whatever its length says"u8);
        output.Flush();
        return Sleep();
    }

    public static IEnumerable<ReadPart> Exit()
    {
        Environment.Exit(3);
        return [];
    }

    public static IEnumerable<ReadPart> Abort()
    {
        Environment.FailFast("A native crash.");
        return [];
    }
}
