namespace Diptych.Inference;

/// <summary>How much a language model takes at a time, for who chooses what to give it.</summary>
public interface IContextWindow
{
    /// <summary>Tokens of what it is given and of its answer together.</summary>
    int MaxTokens { get; }

    /// <summary>Tokens that a picture takes; 0 for a model that does not see.</summary>
    int PictureTokens { get; }

    int CountTokens(string text);

    /// <summary>Of its weights.</summary>
    long Parameters { get; }
}
