// Browsers start no worker for a page that was opened from a folder (file:). There a hidden frame does its work: the search.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.loaded = new Promise(done => this.frame.addEventListener("load", done, { once: true }))
      this.frame.tell = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.frame.srcdoc = `<script>postMessage = frameElement.tell</script><script src="${url}"></script>`
      document.body.append(this.frame)
    }
    postMessage(data) {
      this.loaded.then(() => {
        const inner = this.frame.contentWindow
        inner.dispatchEvent(new inner.MessageEvent("message", { data }))
      })
    }
    terminate() {
      this.frame.remove()
    }
  }
}
