// The person's own video beside the strips: a file they picked, or one at a relative path. Nothing leaves the page.

const ORIGINAL = /^([\w-]{11})_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)$/;

class Film {
  /** `moved(seconds)` is told where the video is, in the sample's own seconds. */
  constructor(moved) {
    this.moved = moved;
    this.player = document.getElementById("video");
    this.state = document.getElementById("video-state");
    this.files = new Map();
    this.offset = 0;
    this.url = null;
    this.showing = null;
    this.player.addEventListener("seeked", () => this.tell());
    this.player.addEventListener("timeupdate", () => this.tell());
    this.player.addEventListener("error", () => {
      if (!this.player.getAttribute("src")) return;
      this.player.hidden = true;
      this.state.textContent = say("video_bad", { name: this.name });
    });
    this.follow = () => {
      this.tell();
      if (!this.player.paused) this.player.requestVideoFrameCallback(this.follow);
    };
    this.player.addEventListener("playing", () => this.player.requestVideoFrameCallback?.(this.follow));
  }

  /** Take files: those picked, or dropped on the page. */
  take(files) {
    for (const file of files) {
      const name = file.name.replace(/\.[^.]+$/, "");
      if (file.type.startsWith("video/") || /\.(mp4|webm|mkv|mov|m4v|ogv)$/i.test(file.name)) this.files.set(name, file);
    }
    this.showing = null;
  }

  /** Look for files in a folder given relative to this page; false where that is no relative path. */
  lookIn(folder) {
    // Never another host: "//host/share" and "file://host" would be asked over the network.
    const parts = folder.split("/");
    const plain = !/^[/\\]|[\\:?#%]/.test(folder) && parts.slice(0, -1).every((part) => part !== "");
    this.folder = plain && folder ? parts.map(encodeURIComponent).join("/").replace(/\/$/, "") : null;
    this.showing = null;
    return plain;
  }

  /** Show the video of a sample at `seconds`. */
  show(vid, seconds) {
    this.link(vid, seconds);
    if (this.showing === vid) return this.seek(seconds);
    this.showing = vid;
    const original = ORIGINAL.exec(vid);
    const whole = original && this.files.get(original[1]);
    const file = this.files.get(vid) ?? whole;
    // A file named after the original holds all of it; the sample begins at its second.
    this.offset = file && file === whole && !this.files.has(vid) ? Number(original[2]) : 0;
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = null;
    this.state.textContent = "";
    if (file) {
      this.url = URL.createObjectURL(file);
      this.play(this.url, file.name, seconds);
    } else if (this.folder && vid) this.play(`${this.folder}/${encodeURIComponent(vid)}.mp4`, `${vid}.mp4`, seconds);
    else {
      this.player.hidden = true;
      this.player.removeAttribute("src");
      this.player.load();
      if (this.files.size) this.state.textContent = say("video_missing", { vid: brief(vid, 120), n: this.files.size });
    }
  }

  play(source, name, seconds) {
    this.name = name;
    this.player.hidden = false;
    this.player.src = source;
    this.state.textContent = brief(name, 120);
    this.seek(seconds);
  }

  link(vid, seconds) {
    const original = ORIGINAL.exec(vid);
    const link = document.getElementById("original");
    link.hidden = !original;
    if (!original) return;
    const at = Math.floor(Number(original[2]) + seconds);
    const [minutes, rest] = [Math.floor(at / 60), String(at % 60).padStart(2, "0")];
    link.href = `https://www.youtube.com/watch?v=${encodeURIComponent(original[1])}&t=${at}s`;
    link.textContent = say("original", { time: `${minutes}:${rest}` });
  }

  seek(seconds) {
    if (this.player.hidden) return;
    const to = seconds + this.offset;
    if (Math.abs(this.player.currentTime - to) > 1e-3) this.player.currentTime = to;
  }

  tell() {
    if (!this.player.hidden && !this.player.seeking) this.moved(Math.max(0, this.player.currentTime - this.offset));
  }

  toggle() {
    if (this.player.hidden) return;
    if (this.player.paused) this.player.play();
    else this.player.pause();
  }
}
