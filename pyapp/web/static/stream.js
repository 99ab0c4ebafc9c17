// The one connection of a browser: its tabs say what they follow, and are told what changes. It runs as a shared worker,
// or in the page where there are none. Hidden tabs hold no connection: they are told of their workflow by a look.

const SILENCE = 12_000; // ms after which the connection counts as lost
const LOOK = 15_000; // ms between two looks for hidden tabs
const GONE = 200_000; // ms after which a tab that says nothing has gone
const MOST = 500; // ids in one address
const FINAL = ["completed", "failed", "cancelled"];
const base = new URL("../../", import.meta.url);

const isActiveRoot = (workflow) => workflow.parent_id === null && !FINAL.includes(workflow.status);

export class Hub {
    tabs = new Map(); // port to what its tab wants: {active, ids, trees, hidden, look}, and when it said so
    known = new Map(); // the workflows that the connection has told of
    source = null;
    standby = null;
    heard = 0; // when it last told something true
    tried = 0;
    speaks = false; // whether there was a snapshot since it opened
    follows = { active: false, ids: new Set(), trees: new Set() };

    constructor() {
        setInterval(() => this.watch(), 1000);
        setInterval(() => this.look(), LOOK);
    }

    join(port) {
        port.onmessage = ({ data }) => {
            const said = JSON.stringify(data);
            const isNews = this.tabs.get(port)?.said !== said;
            if (data) this.tabs.set(port, { ...data, ids: new Set(data.ids), trees: new Set(data.trees), said, at: Date.now() });
            else this.tabs.delete(port); // it leaves
            if (isNews && this.settle() && this.speaks && data) this.snapshot(port);
        };
    }

    // Follow what the visible tabs want; tell whether the connection that there is will do.
    settle() {
        const wanted = { active: false, ids: new Set(), trees: new Set() };
        let visible = false;
        for (const tab of this.tabs.values()) {
            if (tab.hidden) continue;
            visible = true;
            wanted.active ||= tab.active;
            for (const id of tab.ids) if (wanted.ids.size < MOST) wanted.ids.add(id);
            for (const id of tab.trees) wanted.trees.add(id);
        }
        if (!visible) {
            this.close();
            return false;
        }
        const { active, ids, trees } = this.follows;
        const has = [...wanted.ids].every((id) => ids.has(id)) && [...wanted.trees].every((id) => trees.has(id));
        if (this.source && (active || !wanted.active) && has) return true;
        this.follows = wanted;
        this.open();
        return false;
    }

    open() {
        this.close();
        this.tried = Date.now();
        const { active, ids, trees } = this.follows;
        const query = new URLSearchParams([...ids].map((id) => ["id", id]));
        for (const id of trees) query.append("tree", id);
        if (active) query.set("active", "true");
        const source = (this.source = new EventSource(new URL(`api/v1/stream?${query}`, base)));
        const on = (name, take) =>
            source.addEventListener(name, ({ data }) => source === this.source && take(data && JSON.parse(data)));
        const word = () => (this.heard = Date.now());
        on("snapshot", (workflows) => {
            word();
            this.speaks = true;
            this.known = new Map(workflows.map((workflow) => [workflow.workflow_id, workflow]));
            for (const port of this.tabs.keys()) this.snapshot(port);
        });
        on("workflow", (workflow) => {
            word();
            const before = this.known.get(workflow.workflow_id);
            this.known.set(workflow.workflow_id, workflow);
            const isActive = [workflow, before].some((one) => one && isActiveRoot(one));
            this.tell({ type: "workflow", data: workflow }, (tab) =>
                tab.ids.has(workflow.workflow_id) || (tab.active && isActive) || this.isBelow(workflow, tab.trees));
        });
        on("deleted", (data) => {
            word();
            this.known.delete(data.workflow_id);
            this.tell({ type: "deleted", data: data.workflow_id });
        });
        on("ping", () => word() && this.tell({ type: "ping" }));
        on("standby", (data) => this.tell({ type: "standby", data: (this.standby = data) }));
        on("open", () => this.tell({ type: "standby", data: (this.standby = null) })); // or else it says so next
        on("away", () => this.lose());
        on("error", () => this.lose());
    }

    // Whether one of these stands above a workflow.
    isBelow(workflow, tops) {
        let above = tops.size ? workflow : null;
        for (let level = 0; above && level < 64; level++) {
            if (tops.has(above.workflow_id)) return true;
            above = this.known.get(above.parent_id);
        }
        return false;
    }

    lose() {
        this.speaks = false;
        this.tell({ type: "away" });
    }

    close() {
        this.source?.close();
        this.source = null;
        this.speaks = false;
    }

    tell(message, wants = () => true) {
        for (const [port, tab] of this.tabs)
            if (!tab.hidden && wants(tab)) port.postMessage({ ...message, heard: this.heard });
    }

    snapshot(port) {
        const { hidden, active, ids } = this.tabs.get(port);
        if (hidden) return;
        const data = [...this.known.values()].filter((workflow) =>
            ids.has(workflow.workflow_id) || (active && isActiveRoot(workflow)));
        port.postMessage({ type: "snapshot", data, heard: this.heard });
        port.postMessage({ type: "standby", data: this.standby, heard: this.heard });
    }

    watch() {
        const now = Date.now();
        for (const [port, tab] of this.tabs) if (now - tab.at > GONE) this.tabs.delete(port);
        if (!this.source) return;
        const since = Math.max(this.heard, this.tried);
        // A refused connection is closed for good; a silent one may never be.
        const isOver = this.source.readyState === EventSource.CLOSED && now - this.tried > 3000;
        if (isOver || now - since > SILENCE) {
            this.lose();
            if (this.settle()) this.open();
        }
    }

    async look() {
        for (const [port, { hidden, look }] of this.tabs) {
            if (!hidden || !look) continue;
            const from = new URL(`api/v1/workflows/${encodeURIComponent(look)}`, base);
            try {
                const answer = await fetch(from, { cache: "no-cache", signal: AbortSignal.timeout(10_000) });
                if (!answer.ok) throw new Error(`${answer.status}`);
                port.postMessage({ type: "looked", data: await answer.json(), heard: Date.now() });
            } catch {
                port.postMessage({ type: "away" });
            }
        }
    }
}

if (globalThis.SharedWorkerGlobalScope && self instanceof SharedWorkerGlobalScope) {
    const hub = new Hub();
    self.onconnect = ({ ports: [port] }) => hub.join(port);
}
