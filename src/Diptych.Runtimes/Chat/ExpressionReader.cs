namespace Diptych.Runtimes.Chat;

/// <summary>Makes expressions of tokens, from the loosest binding to the tightest.</summary>
internal static class ExpressionReader
{
    private const TokenKind Name = TokenKind.Name, Sign = TokenKind.Sign;

    /// <summary>An expression, with a condition behind it where there is one.</summary>
    public static Expression Read(TokenCursor tokens)
    {
        tokens.Deeper();
        Expression value = ReadWithoutCondition(tokens);
        if (tokens.TryTake(Name, "if"))
        {
            Expression then = value, when = ReadWithoutCondition(tokens), otherwise = tokens.TryTake(Name, "else") ? Read(tokens) : _ => Undefined.Value;
            value = scope => TemplateValues.IsTrue(when(scope)) ? then(scope) : otherwise(scope);
        }
        tokens.Higher();
        return value;
    }

    public static Expression ReadWithoutCondition(TokenCursor tokens)
    {
        Expression left = And(tokens);
        while (tokens.TryTake(Name, "or"))
        {
            Expression a = left, b = And(tokens);
            left = scope => a(scope) is var value && TemplateValues.IsTrue(value) ? value : b(scope);
        }
        return left;
    }

    private static Expression And(TokenCursor tokens)
    {
        Expression left = Not(tokens);
        while (tokens.TryTake(Name, "and"))
        {
            Expression a = left, b = Not(tokens);
            left = scope => a(scope) is var value && !TemplateValues.IsTrue(value) ? value : b(scope);
        }
        return left;
    }

    private static Expression Not(TokenCursor tokens)
    {
        bool not = false;
        while (tokens.TryTake(Name, "not"))
        {
            not = !not;
        }
        Expression value = Compare(tokens);
        return not ? scope => !TemplateValues.IsTrue(value(scope)) : value;
    }

    private static Expression Compare(TokenCursor tokens)
    {
        Expression left = Binary(tokens, 0);
        while (true)
        {
            string? sign = tokens.Next is { Kind: Sign, Value: "==" or "!=" or "<" or ">" or "<=" or ">=" } compared ? (string)compared.Value
                : tokens.Next.Is(Name, "in") ? "in" : tokens.Next.Is(Name, "not") && tokens.Peek(1).Is(Name, "in") ? "not in" : null;
            if (sign is null)
            {
                return left;
            }
            tokens.Take();
            if (sign == "not in")
            {
                tokens.Take();
            }
            Expression a = left, b = Binary(tokens, 0);
            left = scope => TemplateValues.Compare(sign, a(scope), b(scope));
        }
    }

    private static readonly string[][] Levels = [["+", "-"], ["~"], ["*", "/", "//", "%"]];

    private static Expression Binary(TokenCursor tokens, int level)
    {
        if (level == Levels.Length)
        {
            return Unary(tokens);
        }
        Expression left = Binary(tokens, level + 1);
        while (tokens.Next.Kind == Sign && Levels[level].Contains((string)tokens.Next.Value))
        {
            string sign = (string)tokens.Take().Value;
            Expression a = left, b = Binary(tokens, level + 1);
            left = scope => TemplateValues.Compute(sign, a(scope), b(scope));
        }
        return left;
    }

    private static Expression Unary(TokenCursor tokens)
    {
        if (tokens.TryTake(Sign, "-"))
        {
            tokens.Deeper();
            Expression value = Unary(tokens);
            tokens.Higher();
            return scope => TemplateValues.Compute("-", 0L, value(scope));
        }
        return Behind(tokens, Primary(tokens));
    }

    private static Expression Primary(TokenCursor tokens)
    {
        TemplateToken token = tokens.Take();
        switch (token.Kind)
        {
            case TokenKind.String:
                // Strings that follow each other are one.
                string text = (string)token.Value;
                while (tokens.Next.Kind == TokenKind.String)
                {
                    text += (string)tokens.Take().Value;
                }
                return _ => text;
            case TokenKind.Number:
                return _ => token.Value;
            case Name:
                string name = (string)token.Value;
                return name switch
                {
                    "true" or "True" => _ => true,
                    "false" or "False" => _ => false,
                    "none" or "None" => _ => null,
                    _ => scope => scope.Get(name),
                };
            case Sign when "(".Equals(token.Value):
                List<Expression> inside = List(tokens, ")", out bool tuple);
                return inside.Count == 1 && !tuple ? inside[0] : scope => inside.ConvertAll(e => e(scope));
            case Sign when "[".Equals(token.Value):
                List<Expression> items = List(tokens, "]", out _);
                return scope => items.ConvertAll(e => e(scope));
            case Sign when "{".Equals(token.Value):
                var members = new List<(Expression Key, Expression Value)>();
                while (!tokens.TryTake(Sign, "}"))
                {
                    Expression key = Read(tokens);
                    tokens.Expect(Sign, ":");
                    members.Add((key, Read(tokens)));
                    if (!tokens.Next.Is(Sign, "}"))
                    {
                        tokens.Expect(Sign, ",");
                    }
                }
                return scope =>
                {
                    var made = new Dictionary<string, object?>(StringComparer.Ordinal);
                    members.ForEach(m => made[TemplateValues.Text(m.Key(scope))] = m.Value(scope));
                    return made;
                };
            default:
                throw tokens.Wrong($"'{token.Value}' stands where a value should");
        }
    }

    /// <summary>What stands behind a value: members, indices, calls, filters and tests.</summary>
    private static Expression Behind(TokenCursor tokens, Expression value)
    {
        while (true)
        {
            Expression of = value;
            if (tokens.TryTake(Sign, "."))
            {
                string member = tokens.Take().Value.ToString()!;
                value = scope => TemplateValues.Member(of(scope), member);
            }
            else if (tokens.TryTake(Sign, "["))
            {
                value = Index(tokens, of);
            }
            else if (tokens.TryTake(Sign, "("))
            {
                var (values, named) = Arguments(tokens);
                value = scope => of(scope) is Function function
                    ? function.Call(values.ConvertAll(v => v(scope)), named.ToDictionary(n => n.Key, n => n.Value(scope), StringComparer.Ordinal))
                    : throw new TemplateException("The chat template calls what is no function.");
            }
            else if (tokens.TryTake(Sign, "|"))
            {
                string filter = tokens.Take().Value as string ?? "";
                if (!TemplateFunctions.IsFilter(filter))
                {
                    throw tokens.Wrong($"the filter '{filter}' is not known");
                }
                var (values, named) = tokens.TryTake(Sign, "(") ? Arguments(tokens) : ([], []);
                value = scope => TemplateFunctions.Filter(filter, of(scope), values.ConvertAll(v => v(scope)), named.ToDictionary(n => n.Key, n => n.Value(scope), StringComparer.Ordinal));
            }
            else if (tokens.TryTake(Name, "is"))
            {
                bool not = tokens.TryTake(Name, "not");
                string test = tokens.Take().Value as string ?? "";
                if (!TemplateFunctions.IsTest(test))
                {
                    throw tokens.Wrong($"the test '{test}' is not known");
                }
                List<Expression> values = tokens.TryTake(Sign, "(") ? Arguments(tokens).Values
                    : tokens.Next.Kind is TokenKind.String or TokenKind.Number || (tokens.Next.Kind == Name && tokens.Next.Value is not ("and" or "or" or "not" or "is" or "if" or "else" or "in")) ? [Behind(tokens, Primary(tokens))] : [];
                value = scope => TemplateFunctions.Test(test, of(scope), values.ConvertAll(v => v(scope))) != not;
            }
            else
            {
                return value;
            }
        }
    }

    private static Expression Index(TokenCursor tokens, Expression of)
    {
        var bounds = new Expression?[3];
        int colons = 0;
        while (!tokens.TryTake(Sign, "]"))
        {
            if (tokens.TryTake(Sign, ":") && ++colons <= 2)
            {
                continue;
            }
            bounds[Math.Min(colons, 2)] = Read(tokens);
        }
        Expression? index = bounds[0];
        return colons > 0 ? scope => TemplateValues.Slice(of(scope), bounds[0]?.Invoke(scope), bounds[1]?.Invoke(scope), bounds[2]?.Invoke(scope))
            : index is null ? throw tokens.Wrong("[] has no index")
            : scope => TemplateValues.Item(of(scope), index(scope));
    }

    private static List<Expression> List(TokenCursor tokens, string end, out bool tuple)
    {
        var items = new List<Expression>();
        tuple = false;
        while (!tokens.TryTake(Sign, end))
        {
            items.Add(Read(tokens));
            if (!tokens.Next.Is(Sign, end))
            {
                tokens.Expect(Sign, ",");
                tuple = true;
            }
        }
        tuple |= items.Count == 0;
        return items;
    }

    private static (List<Expression> Values, List<KeyValuePair<string, Expression>> Named) Arguments(TokenCursor tokens)
    {
        var values = new List<Expression>();
        var named = new List<KeyValuePair<string, Expression>>();
        while (!tokens.TryTake(Sign, ")"))
        {
            if (tokens.Next.Kind == Name && tokens.Peek(1).Is(Sign, "="))
            {
                string name = (string)tokens.Take().Value;
                tokens.Take();
                named.Add(new KeyValuePair<string, Expression>(name, Read(tokens)));
            }
            else
            {
                values.Add(Read(tokens));
            }
            if (!tokens.Next.Is(Sign, ")"))
            {
                tokens.Expect(Sign, ",");
            }
        }
        return (values, named);
    }
}
