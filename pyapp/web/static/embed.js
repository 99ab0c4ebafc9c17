// A bar in somebody's own page: it follows one workflow, with the key that its own address carries.

const [bar, said] = [document.getElementById("bar"), document.getElementById("said")];
const { pathname, search } = location;
const source = new EventSource(pathname.replace(/\/workflows\/([^/]+)\/embed$/, "/api/v1/workflows/$1/stream") + search);
let heard = Date.now();

for (const kind of ["snapshot", "workflow", "ping"])
    source.addEventListener(kind, ({ data }) => {
        heard = Date.now();
        if (kind === "ping") return;
        const [workflow] = [JSON.parse(data)].flat();
        bar.value = workflow.progress_percentage ?? 0;
        const isEmpty = workflow.agents_total === 0 && !workflow.progress_percentage;
        const share = isEmpty ? `no ${document.body.dataset.nouns}` : `${workflow.progress_percentage ?? "–"} %`;
        said.textContent = `${share}, ${workflow.status}`;
    });
source.addEventListener("deleted", () => source.close());
setInterval(() => {
    const isStale = Date.now() - heard > 12_000;
    document.body.toggleAttribute("data-stale", isStale);
    bar.title = isStale ? `no word since ${new Date(heard).toLocaleTimeString("en-GB")}` : "";
}, 1000);
