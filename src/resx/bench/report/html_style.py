"""The style sheet of a report: system fonts, light and dark, one column on a phone.

Text has a contrast of at least 4.5 to the ground and marks of at least 3, in both themes; a test computes it.
"""

LIGHT = {
    "ground": "#ffffff", "raised": "#f6f7f8", "ink": "#1c2024", "quiet": "#59636e", "rule": "#dfe3e8",
    "good": "#1a6e3c", "warn": "#8a5a00", "shade": "#00000033", "bad": "#b3261e", "link": "#0b5cad",
    "c0": "#0b62b0", "c1": "#c2410c", "c2": "#00795a", "c3": "#96347f", "c4": "#7f6200", "c5": "#4a5563",
}  # fmt: skip
DARK = {
    "ground": "#14171a", "raised": "#1d2125", "ink": "#e6e9ec", "quiet": "#a2acb6", "rule": "#333a41",
    "good": "#6fd39a", "warn": "#f0b45a", "shade": "#ffffff38", "bad": "#ff9086", "link": "#84b9f5",
    "c0": "#6fb1f5", "c1": "#ff9a6b", "c2": "#4fd1a5", "c3": "#e79bd3", "c4": "#e0be57", "c5": "#b4bec9",
}  # fmt: skip


def _variables(theme: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in theme.items())


STYLE = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}\n"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}\n"
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","DejaVu Sans",sans-serif}
header,main,footer{max-width:1072px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:27px;line-height:1.25;font-weight:650;letter-spacing:-.012em;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:20px;line-height:1.3;font-weight:650;margin:56px 0 16px;letter-spacing:-.008em}
h3{font-size:16px;font-weight:650;margin:0 0 8px}
h4{font-size:13px;font-weight:600;margin:0 0 6px;overflow-wrap:anywhere}
p{margin:0 0 12px;max-width:70ch}
a{color:var(--link)}
.quiet,figcaption,caption,footer{color:var(--quiet)}
.subtitle{color:var(--quiet);font-size:14.5px;max-width:none;overflow-wrap:anywhere}
.subtitle code{font-size:13px}
code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.9em;
  overflow-wrap:anywhere}
.skip{position:absolute;left:-9999px;top:0;background:var(--ground);padding:10px 16px;z-index:1}
.skip:focus{left:8px;top:8px}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:2px}
main:focus{outline:none}
nav{margin-top:14px;font-size:14px}
nav ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:2px 20px}
nav a{display:inline-block;padding:4px 0;text-decoration:none}
nav a:hover{text-decoration:underline}
.verdict{border-left:4px solid var(--good);background:var(--raised);padding:18px 22px;margin-top:28px}
.verdict.warn{border-left-color:var(--warn)}
.verdict.bad{border-left-color:var(--bad)}
.verdict h2{margin:0;font-size:19px}
.verdict h2 b{color:var(--good);font-weight:700}
.verdict.bad h2 b,.flag{color:var(--bad)}
.verdict.warn h2 b,.flag.warn{color:var(--warn)}
.verdict ul{margin:10px 0 0;padding-left:20px}
.verdict li{margin:3px 0;max-width:90ch}
.verdict h3{margin:14px 0 0;font-size:14.5px}
.flag{font-size:11.5px;letter-spacing:.04em;white-space:nowrap}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:22px 28px;margin:32px 0 0}
.facts dt{font-size:13.5px;color:var(--quiet)}
.facts dd{margin:2px 0 0;font-size:25px;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums;
  letter-spacing:-.01em}
.facts dd small{display:block;font-size:13.5px;font-weight:400;letter-spacing:0;color:var(--quiet);margin-top:2px}
.scroll{overflow-x:auto;margin:0 0 8px;-webkit-overflow-scrolling:touch;
  /* A shade at the edge behind which columns are hidden: the covers scroll along, the shades do not. */
  background:linear-gradient(90deg,var(--ground) 40%,transparent) 0 0/40px 100% no-repeat local,
    linear-gradient(270deg,var(--ground) 40%,transparent) 100% 0/40px 100% no-repeat local,
    linear-gradient(90deg,var(--shade),transparent) 0 0/16px 100% no-repeat scroll,
    linear-gradient(270deg,var(--shade),transparent) 100% 0/16px 100% no-repeat scroll}
table{border-collapse:collapse;font-size:13.5px;font-variant-numeric:tabular-nums;min-width:100%}
caption{text-align:left;font-size:13.5px;padding:0 0 8px}
caption span{display:inline-block;max-width:calc(100vw - 32px)}
th,td{padding:7px 0 7px 16px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--rule);font-weight:400}
thead th{color:var(--quiet);font-size:13px;vertical-align:bottom;border-bottom-color:var(--quiet)}
th:first-child,td:first-child{padding-left:0}
th.words,td.words,tbody th{text-align:left}
tbody tr:hover{background:var(--raised)}
tbody th{min-width:132px;white-space:normal}
.missing{color:var(--quiet)}
details{margin-top:10px;font-size:14px}
summary{cursor:pointer;color:var(--link);padding:4px 0;width:fit-content}
.csv pre{user-select:all;overflow:auto;max-height:260px;margin:4px 0;padding:10px 12px;background:var(--raised);
  font-size:12.5px}
details .scroll{margin-top:8px;max-height:420px;overflow-y:auto}
.csv+.plates{margin-top:36px}
.plates{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:52px 56px;align-items:start}
figure{margin:0;min-width:0}
figure.many{grid-column:1/-1}
.many .pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:26px 32px}
.pairs .pictures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:20px 24px;align-items:end}
figcaption{font-size:14px;margin-top:10px;max-width:80ch;overflow-wrap:anywhere}
.legend{list-style:none;margin:0 0 12px;padding:0;display:flex;flex-wrap:wrap;gap:3px 20px;font-size:13.5px}
.legend li{display:flex;align-items:center;gap:8px;min-width:0;overflow-wrap:anywhere}
.swatch{width:30px;height:14px;flex:none}
.panel svg{display:block;width:100%;height:auto;overflow:visible}
.panel{min-width:0}
svg text{font-family:inherit;font-size:11.5px;fill:var(--quiet);font-variant-numeric:tabular-nums}
svg .name{fill:var(--ink);paint-order:stroke;stroke:var(--ground);stroke-width:4px;stroke-linejoin:round}
.grid{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--quiet);stroke-width:1}
.one{stroke:var(--ink);stroke-width:1.2}
.s0{--c:var(--c0)}.s1{--c:var(--c1)}.s2{--c:var(--c2)}.s3{--c:var(--c3)}.s4{--c:var(--c4)}.s5{--c:var(--c5)}
.line{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.line.dashed{stroke-dasharray:5 4}
.line.dotted{stroke-dasharray:.1 4;stroke-width:1.8}
.line.again{stroke-dasharray:9 3 1.5 3}
.line.none{display:none}
.interval{stroke:var(--c);stroke-width:3;stroke-linecap:round}
.mark,.sample{fill:var(--c);stroke:var(--ground);stroke-width:1}
.hollow{fill:var(--ground);stroke:var(--c);stroke-width:1.6}
.failure{fill:none;stroke:var(--bad);stroke-width:2.2}
rect.mark{stroke:none}
.datum:hover .mark,.datum:focus .mark{stroke:var(--ink);stroke-width:2}
.datum:focus{outline:none}
svg .tip{visibility:hidden;fill:var(--ink);font-weight:600;paint-order:stroke;stroke:var(--ground);stroke-width:5px;
  stroke-linejoin:round;pointer-events:none}
.datum:hover .tip,.datum:focus .tip{visibility:visible}
.queue{fill:url(#waiting)}.input{fill:var(--c4)}.infer{fill:var(--c0)}.output{fill:var(--c3)}
#waiting path{stroke:var(--c1);stroke-width:2.4}
#waiting rect{fill:var(--c1);opacity:.25}
dl.rows{display:grid;grid-template-columns:minmax(110px,max-content) minmax(0,1fr);gap:6px 28px;margin:0;
  font-size:14.5px}
dl.rows dt{color:var(--quiet)}
dl.rows dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.reading{font-size:15px}
.reading li{margin:8px 0;max-width:74ch}
.reading ul{padding-left:20px;margin:0}
footer{margin-top:56px;padding-top:18px;padding-bottom:44px;font-size:13.5px}
@media (max-width:760px){
  header,main,footer{padding-left:16px;padding-right:16px}
  header{padding-top:28px}
  .plates{grid-template-columns:minmax(0,1fr);gap:48px}
  dl.rows{grid-template-columns:repeat(2,minmax(0,1fr));gap:6px 16px}
  .verdict{padding:16px}
  .facts{grid-template-columns:repeat(2,minmax(0,1fr));gap:20px 16px}
  .facts dd{font-size:21px}
  tbody th{position:sticky;left:0;background:var(--ground);min-width:104px;max-width:136px;overflow-wrap:anywhere}
  figure:not(.many) svg text{font-size:13.5px}
  h2{margin-top:44px}
}
@media print{nav,.skip{display:none}figure,.verdict{break-inside:avoid}}
@media (forced-colors:active){.line,.axis,.interval{stroke:CanvasText}.mark{fill:CanvasText}}
"""
)
