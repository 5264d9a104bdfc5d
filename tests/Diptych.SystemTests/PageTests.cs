using Microsoft.Playwright;
using Xunit;

namespace Diptych.SystemTests;

/// <summary>The page in real Chromium.</summary>
[Collection(nameof(StartedServer))]
public sealed class PageTests(StartedServer server) : IAsyncLifetime
{
    private IPlaywright _playwright = null!;
    private IBrowser _browser = null!;
    private IPage _page = null!;
    private readonly List<string> _errors = [];

    public async ValueTask InitializeAsync()
    {
        string chromium = await Host.DebianAsync("chromium", "/usr/bin/chromium");
        _playwright = await Playwright.CreateAsync();
        _browser = await _playwright.Chromium.LaunchAsync(new BrowserTypeLaunchOptions
        {
            ExecutablePath = chromium,
            Args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
        });
        await OpenAsync(1000, 900, ColorScheme.Light);
    }

    public async ValueTask DisposeAsync()
    {
        await _browser.DisposeAsync();
        _playwright.Dispose();
        Assert.Empty(_errors);
    }

    [Fact]
    public async Task Typing_finds_a_ranked_mix_and_explains_it()
    {
        await _page.FillAsync("#search-text", "cup of coffee");
        await _page.Keyboard.PressAsync("Enter");
        await _page.WaitForSelectorAsync(".hit .kind.image");
        await _page.WaitForSelectorAsync(".hit .kind.text");
        await _page.Locator(".hit details summary").First.ClickAsync();
        Assert.Contains("rank 1", await _page.Locator(".hit details").First.InnerTextAsync(), StringComparison.Ordinal);
        Assert.True(await _page.Locator(".hit mark").CountAsync() > 0);
        await _page.Locator(".hit details summary").First.ClickAsync();
        await _page.WaitForFunctionAsync("() => [...document.images].every(i => i.complete)");
        await ScreenshotAsync("search");
        await _page.SelectOptionAsync("#modality", "image");
        await _page.WaitForFunctionAsync("() => document.querySelectorAll('.kind.text').length === 0 && document.querySelectorAll('.kind.image').length > 0");
    }

    [Fact]
    public async Task A_chosen_image_finds_what_is_like_it()
    {
        await _page.SetInputFilesAsync("#search-file", Path.Combine(Host.Samples, "photos", "chelsea.png"));
        await _page.WaitForSelectorAsync(".hit");
        Assert.Contains("chelsea", await _page.Locator(".hit").First.InnerTextAsync(), StringComparison.Ordinal);
        Assert.True(await _page.Locator("#search-image img").IsVisibleAsync());
    }

    [Fact]
    public async Task Nonsense_finds_nothing_and_says_so()
    {
        await _page.FillAsync("#search-text", "asdkjh qwe");
        await _page.Keyboard.PressAsync("Enter");
        await _page.WaitForFunctionAsync("() => document.querySelector('#search-status').textContent.includes('Nothing here matches')");
    }

    [Fact]
    public async Task A_question_is_answered_and_its_citation_opens_the_pdf_at_the_box()
    {
        await _page.ClickAsync("#tab-ask");
        await _page.FillAsync("#ask-text", "Who was the first woman to pilot the Space Shuttle?");
        await _page.Keyboard.PressAsync("Enter");
        await _page.WaitForSelectorAsync("#answer a");
        Assert.Contains("Eileen Collins", await _page.InnerTextAsync("#answer"), StringComparison.Ordinal);
        await ScreenshotAsync("ask");
        await _page.Locator("#answer a").First.ClickAsync();
        await _page.WaitForSelectorAsync("#viewer .page .box");
        Assert.True(await _page.EvalOnSelectorAsync<bool>("#viewer canvas", "c => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && v < 128); }"), "the page is drawn");
        await ScreenshotAsync("viewer");
        await _page.Keyboard.PressAsync("Escape");
        await _page.WaitForFunctionAsync("() => !document.querySelector('#viewer').open");
    }

    [Fact]
    public async Task A_text_citation_opens_with_its_words_marked()
    {
        await _page.ClickAsync("#tab-ask");
        await _page.FillAsync("#ask-text", "How hot should the water be for brewing coffee?");
        await _page.Keyboard.PressAsync("Enter");
        await _page.Locator("#answer a").First.ClickAsync();
        await _page.WaitForSelectorAsync("#cited");
        Assert.Equal("Brew with water between 92 and 96 degrees Celsius.", await _page.InnerTextAsync("#cited"));
    }

    [Fact]
    public async Task Files_are_added_with_progress()
    {
        await _page.ClickAsync("#tab-add");
        await _page.SetInputFilesAsync("#files", new[] { new FilePayload { Name = "tide.txt", MimeType = "text/plain", Buffer = "High tide is at noon on Friday."u8.ToArray() }, new FilePayload { Name = "bad.pdf", MimeType = "application/pdf", Buffer = [1, 2] } });
        await _page.WaitForFunctionAsync("() => document.querySelector('#job-text').textContent.startsWith('done')");
        string files = await _page.InnerTextAsync("#job-files");
        Assert.Contains("tide.txt: added", files, StringComparison.Ordinal);
        Assert.Contains("bad.pdf: failed (", files, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(ColorScheme.Light)]
    [InlineData(ColorScheme.Dark)]
    public async Task A_phone_shows_it_without_sideways_scrolling(ColorScheme scheme)
    {
        await OpenAsync(375, 720, scheme);
        await _page.FillAsync("#search-text", "moon");
        await _page.Keyboard.PressAsync("Enter");
        await _page.WaitForSelectorAsync(".hit");
        Assert.True(await _page.EvaluateAsync<bool>("document.documentElement.scrollWidth <= 375"));
        await ScreenshotAsync($"phone-{scheme}");
    }

    [Fact]
    public async Task The_keyboard_reaches_everything()
    {
        await _page.EvaluateAsync("document.activeElement.blur()");
        await _page.Keyboard.PressAsync("/");
        Assert.Equal("search-text", await _page.EvaluateAsync<string>("document.activeElement.id"));
        await _page.FocusAsync("#tab-search");
        await _page.Keyboard.PressAsync("ArrowRight");
        Assert.True(await _page.IsVisibleAsync("#panel-ask"));
    }

    private async Task OpenAsync(int width, int height, ColorScheme scheme)
    {
        IBrowserContext context = await _browser.NewContextAsync(new BrowserNewContextOptions { ViewportSize = new ViewportSize { Width = width, Height = height }, ColorScheme = scheme });
        _page = await context.NewPageAsync();
        _page.SetDefaultTimeout(20_000);
        _page.PageError += (_, error) => _errors.Add(error);
        await _page.GotoAsync(server.Url.ToString());
        await _page.WaitForFunctionAsync("() => document.querySelector('#collection').value !== ''");
        await _page.SelectOptionAsync("#collection", "samples");
    }

    private async Task ScreenshotAsync(string name)
    {
        if (Environment.GetEnvironmentVariable("DIPTYCH_SCREENSHOTS") is { Length: > 0 } folder)
        {
            await _page.ScreenshotAsync(new PageScreenshotOptions { Path = Path.Combine(folder, $"{name}.png") });
        }
    }
}
