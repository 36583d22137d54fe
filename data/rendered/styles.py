"""The accompaniment styles of `mma`: names in plain English, usual tempi and tags.

One row for each library file: name of the file without suffix | name in a caption | slowest and
fastest usual tempo in beats per minute, as a listener counts them | tags. The grooves of the rows
"texture-..." are defined in `textures.py`.
"""

import dataclasses

_TABLE = """
50srock | 1950s rock and roll | 120-170 | rock, rock and roll, retro
60srock | 1960s rock | 110-150 | rock, retro
68march | 6/8 march | 100-130 | march, parade
68swing | 6/8 swing | 90-140 | swing, jazz
8beat | eight-beat pop | 90-140 | pop, rock
afro-cuban | afro-cuban groove | 90-130 | latin, afro-cuban, world
arpeggio44 | arpeggio study in 4/4 | 70-120 | classical, arpeggio, gentle
arpeggio68 | arpeggio study in 6/8 | 60-100 | classical, arpeggio, gentle
arpeggiowaltz | arpeggio waltz | 80-130 | waltz, classical, arpeggio
ballad | ballad | 60-85 | ballad, slow, gentle
ballad128 | 12/8 ballad | 55-80 | ballad, slow, soul
ballad68 | 6/8 ballad | 55-85 | ballad, slow
basicrock | rock | 100-145 | rock, band
bebop | bebop | 170-240 | jazz, bebop, fast
beguine | beguine | 95-130 | latin, easy listening, dance
bigband | big band swing | 120-190 | jazz, swing, big band
bluefolk | bluesy folk | 80-120 | folk, blues, acoustic
bluegrass | bluegrass | 120-180 | bluegrass, country, acoustic
blues | blues | 80-130 | blues
blues128 | 12/8 blues | 55-85 | blues, slow
blues68 | 6/8 blues | 55-90 | blues, slow
boggiewoggie | boogie-woogie | 130-190 | boogie-woogie, piano, blues
bolero | bolero | 80-110 | latin, bolero, romantic
boneym | disco pop | 110-130 | disco, pop, dance
bossanova | bossa nova | 110-160 | bossa nova, latin, relaxed
broadway | Broadway show tune | 110-160 | show tune, musical theatre
broadwaywaltz | Broadway waltz | 110-170 | waltz, musical theatre
bubblerock | bubblegum pop | 110-145 | pop, rock, cheerful
bvfunk | funk | 90-120 | funk, groove
bwmarch | show march | 110-130 | march, musical theatre
calypso | calypso | 100-140 | calypso, caribbean, cheerful
chacha | cha-cha | 110-130 | latin, cha-cha, dance
charleston | Charleston | 170-230 | charleston, 1920s, jazz, dance
countryblues | country blues | 80-120 | country, blues, acoustic
countryswing | country swing | 110-160 | country, swing
countrywaltz | country waltz | 90-130 | country, waltz
cubanguitar | Cuban guitar groove | 90-130 | latin, cuban, guitar
descendingjazz | descending walking jazz | 100-150 | jazz
desert | desert funk | 90-120 | funk, desert, exotic
dixie | Dixieland jazz | 140-210 | dixieland, jazz, cheerful
dixiemarch | Dixieland march | 110-150 | dixieland, march, jazz
dsoul | soul | 80-115 | soul, groove
easyswing | easy swing | 100-140 | swing, jazz, relaxed
evansish | impressionistic slow jazz | 60-90 | jazz, slow, intimate
fastblues | fast blues | 140-190 | blues, fast
fastjazzwaltz | fast jazz waltz | 170-220 | jazz, waltz, fast
fastswing | fast swing | 180-240 | swing, jazz, fast
fastwaltz | fast waltz | 170-220 | waltz, fast
folk | folk | 90-130 | folk, acoustic
folkballad | folk ballad | 65-95 | folk, ballad, acoustic
folkrock | folk rock | 100-135 | folk, rock
folkyjazz | folky guitar jazz | 90-130 | jazz, folk, guitar
foxtrot | foxtrot | 110-140 | foxtrot, ballroom, dance
frenchwaltz | French musette waltz | 120-180 | waltz, french, accordion
guitarballad | guitar ballad | 60-90 | ballad, guitar, gentle
gypsyjazz | gypsy jazz | 150-220 | gypsy jazz, swing, acoustic
hillcountry | hillbilly country | 110-150 | country, acoustic, banjo
hymn | hymn | 65-95 | hymn, church, solemn
jazz-54 | 5/4 jazz | 120-170 | jazz, odd metre
jazzcombo | jazz combo | 130-190 | jazz, combo
jazzguitar | jazz guitar accompaniment | 90-140 | jazz, guitar
jazzrhumba | jazz rhumba | 100-130 | jazz, latin, rhumba
jazzrock | jazz rock | 100-140 | jazz, rock, fusion
jazzwaltz | jazz waltz | 120-170 | jazz, waltz
jive | jive | 150-190 | jive, rock and roll, dance
latinwaltz | latin waltz | 100-150 | latin, waltz
lfusion | latin fusion | 100-140 | latin, fusion
lighttango | light Spanish tango | 100-125 | tango, spanish, dance
lullaby | lullaby | 60-85 | lullaby, calm, gentle
mambo | mambo | 150-200 | latin, mambo, dance
march | military march | 100-125 | march, military
mellowjazz | mellow jazz | 60-95 | jazz, mellow, slow
merengue | merengue | 120-160 | latin, merengue, dance
modernjazz | modern jazz | 120-180 | jazz, modern
modernjazzwaltz | modern jazz waltz | 120-170 | jazz, waltz, modern
nitejazz | sultry late-night jazz | 60-90 | jazz, slow, night
pianoballad | piano ballad | 60-85 | ballad, piano, gentle
polka | polka | 110-140 | polka, folk, cheerful
popballad | pop ballad | 60-90 | pop, ballad
popspiritual | pop gospel | 90-130 | gospel, pop
quickstep | quickstep | 180-220 | quickstep, ballroom, dance
ragtime | ragtime | 90-150 | ragtime, piano, retro
rb | rhythm and blues | 80-120 | r&b, soul
rb-ballad | rhythm and blues ballad | 60-85 | r&b, ballad, slow
rhumba | rhumba | 95-125 | latin, rhumba, easy listening
rock-128 | 12/8 rock | 60-95 | rock, doo-wop
rockballad | rock ballad | 60-85 | rock, ballad
rockwaltz | rock waltz | 100-150 | rock, waltz
salsa | salsa | 160-210 | latin, salsa, dance
samba | samba | 180-220 | latin, samba, brazilian
showtune | show tune | 100-150 | show tune, musical theatre
shuffleboggie | shuffle boogie | 110-150 | blues, shuffle, boogie
ska | ska | 120-160 | ska, caribbean
slowblues | slow blues | 55-80 | blues, slow
slowbolero | slow bolero | 65-90 | latin, bolero, slow
slowbroadway | slow Broadway tune | 70-95 | show tune, slow
slowcountry | slow country | 65-90 | country, slow
slowjazz | slow jazz | 55-85 | jazz, slow
slowspiritual | slow gospel | 60-85 | gospel, slow, solemn
softrock | soft rock | 85-120 | soft rock, pop
softshoe | soft-shoe dance | 90-130 | soft shoe, tap dance, retro
son | Cuban son | 100-150 | latin, cuban, son
spiritual | gospel spiritual | 85-120 | gospel, spiritual
stringballad | string ballad | 55-80 | ballad, strings, slow
strut | strut | 100-140 | jazz, strut
swing | swing | 120-180 | swing, jazz
tango | tango | 110-130 | tango, latin, dance
trance | trance | 125-145 | trance, techno, electronic, dance
twist | 1950s twist | 140-175 | rock and roll, twist, dance
vienesewaltz | Viennese waltz | 160-200 | waltz, viennese, ballroom
waltz | waltz | 90-140 | waltz, ballroom
westernswing | western swing | 120-170 | country, swing
zydeco | zydeco | 120-160 | zydeco, cajun, accordion
texture-piano | solo piano piece | 60-120 | piano, solo, classical
texture-guitar | solo acoustic guitar piece | 65-125 | acoustic guitar, solo, acoustic
texture-strings | string ensemble piece | 55-110 | strings, orchestral, classical
texture-choir | choral piece | 50-90 | choir, choral, classical
texture-ambient | ambient soundscape | 40-70 | ambient, atmospheric, calm
texture-organ | church organ piece | 50-90 | organ, church, solemn
texture-harp | solo harp piece | 60-110 | harp, solo, gentle
texture-flute | flute piece | 60-115 | flute, gentle, classical
texture-techno | techno | 120-146 | techno, electronic, dance
texture-drumsbass | drums and bass groove | 80-130 | drums, bass, groove
"""


@dataclasses.dataclass(frozen=True)
class Style:
  """One style.

  Attributes:
    stem: Name of its library file without suffix.
    name: English name, as it stands in captions.
    tempo: Slowest and fastest usual tempo, in beats per minute.
    tags: Tags of the style.
  """

  stem: str
  name: str
  tempo: tuple[int, int]
  tags: tuple[str, ...]


def _parse(line: str) -> Style:
  # A table of text rather than of Python: 111 rows stay readable, and each is one line of a diff.
  stem, name, tempo, tags = (field.strip() for field in line.split("|"))
  slowest, fastest = (int(bpm) for bpm in tempo.split("-"))
  return Style(stem, name, (slowest, fastest), tuple(tag.strip() for tag in tags.split(",")))


# In the order of the table, which is also the order in which pieces are built.
STYLES: dict[str, Style] = {style.stem: style for style in map(_parse, _TABLE.strip().splitlines())}
