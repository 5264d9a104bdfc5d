using System.Text;

namespace Diptych.Runtimes.Chat;

/// <summary>
/// A template in the part of Jinja that chat templates of models are written in (jinja.palletsprojects.com; blocks trimmed as
/// transformers' <c>apply_chat_template</c> does): expressions with filters and tests, if, for, set, macro, break and continue. It is what a
/// model's own file says, so it is taken as foreign text: it reaches nothing but the values it is given, and what it writes is bounded.
/// </summary>
public sealed class Template
{
    /// <summary>Characters that a rendering may come to, and steps it may take.</summary>
    private const int MostCharacters = 16 << 20, MostSteps = 4 << 20;

    private readonly Block _body;

    private Template(Block body) => _body = body;

    /// <exception cref="InvalidDataException">It is no template, or uses what is not known here; the message says what and in which line.</exception>
    public static Template Parse(string source) => new(new TemplateReader(source).Read());

    /// <exception cref="TemplateException">The template itself raised an error, or came upon what it cannot work with.</exception>
    public string Render(IReadOnlyDictionary<string, object?> values)
    {
        var scope = new Scope(null, new Run());
        foreach (var (name, value) in values)
        {
            scope.Set(name, value);
        }
        _body.Write(scope);
        return scope.Run.Text.ToString();
    }

    /// <summary>What one rendering has come to.</summary>
    internal sealed class Run
    {
        private int _steps;

        public StringBuilder Text { get; set; } = new();

        public void Step()
        {
            if (++_steps > MostSteps || Text.Length > MostCharacters)
            {
                throw new TemplateException("The chat template writes without end.");
            }
        }
    }
}

/// <summary>A template cannot be rendered with what it was given.</summary>
public sealed class TemplateException(string message) : Exception(message);

/// <summary>Names and their values; those of a loop or a macro go before those around it.</summary>
internal sealed class Scope(Scope? outer, Template.Run run)
{
    private readonly Dictionary<string, object?> _values = new(StringComparer.Ordinal);

    public Template.Run Run => run;

    /// <summary>The scope of the template as a whole.</summary>
    public Scope Outermost => outer?.Outermost ?? this;

    public object? Get(string name) => _values.TryGetValue(name, out object? value) ? value : outer is null ? TemplateFunctions.Global(name) : outer.Get(name);

    public void Set(string name, object? value) => _values[name] = value;
}

/// <summary>How a statement ended.</summary>
internal enum Flow
{
    Next,
    Break,
    Continue,
}

internal delegate object? Expression(Scope scope);

internal delegate Flow Statement(Scope scope);

/// <summary>Statements one after another.</summary>
internal sealed class Block(IReadOnlyList<Statement> statements)
{
    public Flow Write(Scope scope)
    {
        foreach (Statement statement in statements)
        {
            scope.Run.Step();
            if (statement(scope) is var flow and not Flow.Next)
            {
                return flow;
            }
        }
        return Flow.Next;
    }

    /// <summary>What the statements write, apart from what was written before.</summary>
    public string Capture(Scope scope)
    {
        StringBuilder before = scope.Run.Text;
        scope.Run.Text = new StringBuilder();
        try
        {
            Write(scope);
            return scope.Run.Text.ToString();
        }
        finally
        {
            scope.Run.Text = before;
        }
    }
}
