using System.Reflection;
using System.Runtime.CompilerServices;
using Diptych.App.Http;
using Xunit;

namespace Diptych.Tests.Http;

public sealed class JsonContractTests
{
    [Fact]
    public void What_a_request_may_leave_out_may_also_be_null()
    {
        Type[] requests = [.. typeof(Json).Assembly.GetTypes().Where(t => t.Name.EndsWith("Request", StringComparison.Ordinal) && t.GetMethod("<Clone>$") is not null)];
        Assert.True(requests.Length > 8);
        Assert.Empty(
            from type in requests
            from member in type.GetProperties()
            where member.CanWrite && member.PropertyType.IsValueType && Nullable.GetUnderlyingType(member.PropertyType) is null
                && !member.IsDefined(typeof(RequiredMemberAttribute)) && !member.IsDefined(typeof(System.Text.Json.Serialization.JsonRequiredAttribute))
            select $"{type.Name}.{member.Name}");
    }
}
