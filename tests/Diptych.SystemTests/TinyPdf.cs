using System.Globalization;
using System.Text;

namespace Diptych.SystemTests;

/// <summary>Writes PDF files of one page, object by object, for what no writer would write.</summary>
internal static class TinyPdf
{
    /// <param name="content">Operators of the page, which has the font /F.</param>
    /// <param name="resources">What else the page's resources have.</param>
    /// <param name="more">Further objects, from number 6 on.</param>
    public static byte[] Page(string content, string resources, params string[] more)
    {
        string[] objects =
        [
            "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
            $"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>{resources}>>>>",
            Stream(content, ""), "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", .. more,
        ];
        var pdf = new StringBuilder("%PDF-1.7\n");
        var offsets = new List<int>();
        for (int i = 0; i < objects.Length; i++)
        {
            offsets.Add(pdf.Length);
            pdf.Append(CultureInfo.InvariantCulture, $"{i + 1} 0 obj\n{objects[i]}\nendobj\n");
        }
        int table = pdf.Length;
        pdf.Append(CultureInfo.InvariantCulture, $"xref\n0 {objects.Length + 1}\n0000000000 65535 f \n");
        offsets.ForEach(o => pdf.Append(CultureInfo.InvariantCulture, $"{o:0000000000} 00000 n \n"));
        pdf.Append(CultureInfo.InvariantCulture, $"trailer\n<</Size {objects.Length + 1}/Root 1 0 R>>\nstartxref\n{table}\n%%EOF");
        return Encoding.Latin1.GetBytes(pdf.ToString());
    }

    public static string Stream(string content, string keys) => $"<<{keys}/Length {content.Length}>>\nstream\n{content}\nendstream";
}
