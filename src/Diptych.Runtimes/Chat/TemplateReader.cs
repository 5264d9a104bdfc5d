namespace Diptych.Runtimes.Chat;

/// <summary>Makes statements of a template's tokens.</summary>
internal sealed class TemplateReader(string source)
{
    private readonly TokenCursor _tokens = new(TemplateTokens.Cut(source));

    public Block Read()
    {
        Block body = Body();
        return _tokens.AtEnd ? body : throw _tokens.Wrong($"'{_tokens.Next.Value}' stands alone");
    }

    /// <summary>Statements up to one that ends or divides what is around them, whose name is then next.</summary>
    private Block Body()
    {
        _tokens.Deeper();
        var statements = new List<Statement>();
        while (!_tokens.AtEnd)
        {
            TemplateToken token = _tokens.Next;
            if (token.Kind == TokenKind.Text)
            {
                string text = (string)_tokens.Take().Value;
                statements.Add(scope => Write(scope, text));
                continue;
            }
            if (token.Kind == TokenKind.BeginValue)
            {
                _tokens.Take();
                Expression value = ExpressionReader.Read(_tokens);
                _tokens.Expect(TokenKind.End, "}}");
                statements.Add(scope => Write(scope, TemplateValues.Text(value(scope))));
                continue;
            }
            string name = _tokens.Peek(1).Value as string ?? "";
            if (name.StartsWith("end", StringComparison.Ordinal) || name is "else" or "elif")
            {
                break;
            }
            _tokens.Take();
            _tokens.Take();
            statements.Add(Statement(name));
        }
        _tokens.Higher();
        return new Block(statements);
    }

    private Statement Statement(string name)
    {
        switch (name)
        {
            case "if":
                return If();
            case "for":
                return For();
            case "set":
                return Set();
            case "macro":
                return Macro();
            case "break" or "continue":
                CloseTag();
                Flow flow = name == "break" ? Flow.Break : Flow.Continue;
                return _ => flow;
            case "generation":
                // transformers marks with it what the assistant said; nothing is written for it.
                CloseTag();
                Block said = Body();
                End("endgeneration");
                return said.Write;
            default:
                throw _tokens.Wrong($"the statement '{name}' is not known");
        }
    }

    private Statement If()
    {
        var branches = new List<(Expression? When, Block Then)>();
        Expression? when = ExpressionReader.Read(_tokens);
        CloseTag();
        while (true)
        {
            branches.Add((when, Body()));
            string next = Divider();
            if (next == "endif")
            {
                break;
            }
            if (next is not ("elif" or "else") || when is null)
            {
                throw _tokens.Wrong($"'{next}' stands within an if");
            }
            when = next == "elif" ? ExpressionReader.Read(_tokens) : null;
            CloseTag();
        }
        CloseTag();
        return scope =>
        {
            foreach (var (condition, then) in branches)
            {
                if (condition is null || TemplateValues.IsTrue(condition(scope)))
                {
                    return then.Write(scope);
                }
            }
            return Flow.Next;
        };
    }

    private Statement For()
    {
        string[] names = Names();
        _tokens.Expect(TokenKind.Name, "in");
        Expression items = ExpressionReader.ReadWithoutCondition(_tokens);
        Expression? when = _tokens.TryTake(TokenKind.Name, "if") ? ExpressionReader.Read(_tokens) : null;
        CloseTag();
        Block body = Body(), otherwise = new([]);
        string next = Divider();
        if (next == "else")
        {
            CloseTag();
            otherwise = Body();
            next = Divider();
        }
        if (next != "endfor")
        {
            throw _tokens.Wrong($"'{next}' stands within a for");
        }
        CloseTag();
        return scope =>
        {
            var chosen = new List<object?>();
            foreach (object? item in TemplateValues.Items(items(scope)))
            {
                scope.Run.Step();
                var trial = new Scope(scope, scope.Run);
                Assign(trial, names, item);
                if (when is null || TemplateValues.IsTrue(when(trial)))
                {
                    chosen.Add(item);
                }
            }
            for (int i = 0; i < chosen.Count; i++)
            {
                var inner = new Scope(scope, scope.Run);
                Assign(inner, names, chosen[i]);
                inner.Set("loop", TemplateFunctions.Loop(chosen, i));
                if (body.Write(inner) == Flow.Break)
                {
                    break;
                }
            }
            return chosen.Count == 0 ? otherwise.Write(scope) : Flow.Next;
        };
    }

    private Statement Set()
    {
        string[] names = Names();
        string? member = names.Length == 1 && _tokens.TryTake(TokenKind.Sign, ".") ? (string)_tokens.Take().Value : null;
        if (_tokens.TryTake(TokenKind.Sign, "="))
        {
            Expression value = ExpressionReader.Read(_tokens);
            CloseTag();
            return scope => Put(scope, value(scope));
        }
        CloseTag();
        Block text = Body();
        End("endset");
        return scope => Put(scope, text.Capture(scope));

        Flow Put(Scope scope, object? value)
        {
            if (member is null)
            {
                Assign(scope, names, value);
            }
            else if (scope.Get(names[0]) is Namespace space)
            {
                space.Values[member] = value;
            }
            else
            {
                throw new TemplateException($"The chat template sets '{member}' of '{names[0]}', which is no namespace.");
            }
            return Flow.Next;
        }
    }

    private Statement Macro()
    {
        string name = (string)_tokens.Take().Value;
        _tokens.Expect(TokenKind.Sign, "(");
        var parameters = new List<(string Name, Expression? Otherwise)>();
        while (!_tokens.TryTake(TokenKind.Sign, ")"))
        {
            string parameter = (string)_tokens.Take().Value;
            parameters.Add((parameter, _tokens.TryTake(TokenKind.Sign, "=") ? ExpressionReader.Read(_tokens) : null));
            _tokens.TryTake(TokenKind.Sign, ",");
        }
        CloseTag();
        Block body = Body();
        End("endmacro");
        return scope =>
        {
            scope.Set(name, new Function((values, named) =>
            {
                scope.Run.Step();
                if (!System.Runtime.CompilerServices.RuntimeHelpers.TryEnsureSufficientExecutionStack())
                {
                    throw new TemplateException($"The chat template's macro '{name}' calls itself without end.");
                }
                var inner = new Scope(scope.Outermost, scope.Run);
                for (int i = 0; i < parameters.Count; i++)
                {
                    inner.Set(parameters[i].Name, i < values.Count ? values[i] : named.TryGetValue(parameters[i].Name, out object? value) ? value : parameters[i].Otherwise is { } otherwise ? otherwise(scope) : Undefined.Value);
                }
                return body.Capture(inner);
            }));
            return Flow.Next;
        };
    }

    private string[] Names()
    {
        var names = new List<string>();
        do
        {
            TemplateToken token = _tokens.Take();
            names.Add(token.Kind == TokenKind.Name ? (string)token.Value : throw _tokens.Wrong($"'{token.Value}' is no name"));
        }
        while (_tokens.TryTake(TokenKind.Sign, ","));
        return [.. names];
    }

    /// <summary>The name of the statement that ends or divides a body.</summary>
    private string Divider()
    {
        _tokens.Expect(TokenKind.BeginStatement, "");
        return _tokens.Take().Value as string ?? "";
    }

    private void End(string name)
    {
        if (Divider() is var found && found != name)
        {
            throw _tokens.Wrong($"'{found}' stands where {name} should");
        }
        CloseTag();
    }

    private void CloseTag() => _tokens.Expect(TokenKind.End, "%}");

    private static Flow Write(Scope scope, string text)
    {
        scope.Run.Text.Append(text);
        return Flow.Next;
    }

    private static void Assign(Scope scope, string[] names, object? value)
    {
        if (names.Length == 1)
        {
            scope.Set(names[0], value);
            return;
        }
        List<object?> parts = TemplateValues.Items(value);
        if (parts.Count != names.Length)
        {
            throw new TemplateException($"The chat template takes {parts.Count} values for {string.Join(", ", names)}.");
        }
        for (int i = 0; i < names.Length; i++)
        {
            scope.Set(names[i], parts[i]);
        }
    }
}

/// <summary>A place among a template's tokens.</summary>
internal sealed class TokenCursor(List<TemplateToken> tokens)
{
    private static readonly TemplateToken Nothing = new(TokenKind.Text, "the end", 0);

    /// <summary>Statements and expressions within each other: more would exhaust the stack.</summary>
    private const int Deepest = 100;

    private int _at, _depth;

    public bool AtEnd => _at >= tokens.Count;

    public TemplateToken Next => Peek(0);

    public TemplateToken Peek(int ahead) => _at + ahead < tokens.Count ? tokens[_at + ahead] : Nothing;

    public TemplateToken Take()
    {
        TemplateToken token = Next;
        _at++;
        return token;
    }

    public bool TryTake(TokenKind kind, string value)
    {
        bool takes = Next.Is(kind, value);
        _at += takes ? 1 : 0;
        return takes;
    }

    public void Expect(TokenKind kind, string value)
    {
        if (!TryTake(kind, value))
        {
            throw Wrong($"'{Next.Value}' stands where {(value.Length > 0 ? $"'{value}'" : "a statement")} should");
        }
    }

    public void Deeper()
    {
        if (++_depth > Deepest)
        {
            throw Wrong("it stands too deep within itself");
        }
    }

    public void Higher() => _depth--;

    public InvalidDataException Wrong(string what) => TemplateTokens.Wrong(what, _at < tokens.Count ? tokens[_at].Line : tokens.Count > 0 ? tokens[^1].Line : 1);
}
