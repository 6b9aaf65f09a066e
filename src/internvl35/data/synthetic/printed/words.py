"""What is there to print: English words, words that could be, random letters, numbers.

No text can be taken for another: letters and digits that look alike in some fonts never stand
where only the font could tell them apart. Printing is left to the families. No counterpart in the
paper.
"""

from __future__ import annotations

import random

from internvl35.data.synthetic.drawing import Chance, Pool

_LIST = """
am an as at be by do go he if in is it me my no of on or ox so to up us we act add age air all and
ant any ape arm art ash ask bad bag bar bat bay bed bee big bin bit box boy bud bus but buy cab can
cap car cat cot cow cry cup cut day den dig dim dog dot dry due ear eat egg elf end eye fan far fat
few fig fin fit fix fly fog for fox fun fur gap gas gem get gum gun hat hen her him hip his hit hot
how hut ice ink ivy jam jar jaw job joy key kid kit lab lap law leg let lid lip log lot low man map
mat mix mop mud mug net new nod not now nut oak oar odd oil old one our out owl own pan paw pay pea
pen pet pie pig pin pit pot put rag ram rat raw red rib rob rod row rub rug run sad saw say sea see
set she shy sit six ski sky son sum sun tag tap tax tea ten tie tin tip toe top toy try tub two use
van vet vow wax way web wet who why wig win yes yet you zip zoo able acid also arch area army aunt
away axis baby back ball band bank barn bath bead bean bear beef bell belt bend bike bird blue boat
body bone book boot born bowl bulb busy cake calf calm camp card care case cave chat city clay club
coal coat code coin cold cook corn cozy crab crow cube dark data dawn deep deer desk dish door down
draw drum duck dust each east easy edge even exit face fact farm fast feet fern film fire fish five
flag flat flux foam folk food foot fork four frog fuel full game gate gift girl glue goat gold good
gray grid gulf hair half hall hand hard hawk head heat help herb hero high hill hole home hook hope
horn hour huge idea inch iron item jazz join jump june jury just keep kind king kite knee knot lady
lake lamb lamp land last lava leaf left life lift lime line lion list loaf lock long loop luck mail
main many mark mask math maze meal milk mind mint moon moss move much nail name navy neck nest next
nice nine noon nose note oath open oven over page palm park part path pear pink pipe plan play plum
poem pond pool port post pure quiz race raft rail rain read real rice rich ring road rock roof room
rope rose ruby safe sail salt sand save seal seed ship shoe shop side sign silk size skin snow soap
sock soft song soup star stem stop surf swan tail tale tall tank tape taxi team tent text tide tile
time tiny toad tool town tree trip tube tuna turn unit vase verb very view vine vote walk wall warm
wash wave week well west what wide wild wind wing wish wolf wood wool word work yard year zero zone
about above actor adult after again agent ahead alarm album alive alone along among angel anger
angle ankle apart apple arrow aside award bacon badge baker basic basin beach beard begin bench
berry birth black blade blank blend block blood bloom board bonus booth brain brand brave bread
break brick brief bring broad brown brush build bunch cabin cable camel candy cargo carry catch
cause cedar chain chair chalk charm chart chase cheap check cheek cheer chess chest chief child
choir civic civil claim clean clear clerk click cliff climb clock cloth cloud coach coast comet
coral couch count court cover craft crane cream crown cycle daily dairy dance delta depth diary
digit dough draft drama dream dress drift drink drive eagle earth eight elbow empty enjoy enter
entry equal error event every exact extra fable faith false feast fence fever field fifth fifty
final first flame flash fleet float flock floor flour fluid focus force forty found frame fresh
front frost fruit funny ghost giant given glass globe glory glove going grace grade grain grand
grape grass great green group guard guess guest guide habit happy harsh hazel heart heavy hello
hobby honey horse hotel house human humor ideal igloo image index inner ivory jelly jewel joint
judge juice kayak knife knock label large laser later laugh layer learn least lemon level lever
light limit local logic lucky lunch magic major maple march match mayor medal melon mercy merry
metal meter midst minor minus mixed model money month moral motor mount mouse mouth movie music
night north nurse nylon ocean offer often olive onion orbit order other outer owner panda panel
paper party pasta patch pause peace peach pearl phone photo piano piece pilot pitch pizza place
plain plane plant plate point polar pound power press price pride prime print prize proof proud
puppy quack queen quick quiet quilt quota radio ranch range rapid ratio reach ready relax reply
ridge right rival river roast robot rough round route royal rural salad sauce scale scarf scene
scent score scout seize sense serve seven shade shape share sharp sheep shelf shell shine shirt
shock shore short shout sight skate skill skirt sleep slice slope small smart smile smoke snake
solar solid solve sound south space spark speak speed spice spoon sport squad stack staff stage
stair stamp stand start state steam steel still stone storm story stove straw sugar sunny sweet
swift swing sword table teach thank theme thick thing third three throw thumb tiger title toast
today token topic torch total touch tower trace track trade train treat trend trick trout truck
truly trust truth twice twist ultra uncle under union unity upper upset urban usual valid value
vapor video visit vital vivid vocal voice wagon waist watch water weigh whale wheat wheel where
while white whole woman world worth wrist write yacht yield young zebra accept across action active
actual advice affair afford agency agenda almost always amount anchor animal answer anyone arcade
around arrive artist aspect attack author autumn avenue backup badger bakery ballet bamboo banana
banner barely barrel basket battle beaver become before behind belief belong beside better beyond
blazer border bottle branch breath breeze bridge bright broken bronze bubble bucket budget butter
button cactus called camera camper candle cannon canvas carbon career carpet carrot castle cattle
caught celery center cereal chance change cherry choice choose chosen church cinema circle clever
closet clover coffee coffin comedy common copper corner cotton county couple course cousin credit
crispy custom danger debate decade decent defend degree deputy desert detail device dinner doctor
dollar donkey double dragon driver duster easily editor eleven empire energy engine enough equity
escape export fabric factor family famous farmer father faucet fellow filter finger finish fiscal
flight flower follow forest forget formal fossil fourth freeze friend frozen future galaxy garage
garden garlic gather gentle ginger global goblet golden gossip gravel ground growth guitar hammer
handle happen harbor hazard helmet hidden hiking hockey honest hunger icicle impact income indoor
injury insect inside invite island jacket jersey jigsaw joyful jungle kettle kidney kindly kitten
ladder laptop latest leader league legend lesson letter likely liquid little lively lizard lovely
luxury magnet mainly manner marble margin marine market master matter meadow medium member memory
mental meteor method middle minute mirror mobile modern modest moment monkey mother motion museum
napkin narrow nation nature nearly needle nephew normal notice number object office online option
orange origin output oxygen oyster packet paddle palace parcel parent parrot pastry peanut pencil
people pepper period person pickle pigeon pillow pirate planer planet player plenty pocket police
policy polish potato pretty prince profit purple puzzle quarry quiver rabbit random reason record
reduce region remote repair report rescue result return review ribbon riddle rocket rubber runner
saddle safety salmon sample sauces school season second secret select senior series settle shadow
shower shrimp signal silver simple single sister smooth soccer social socket source spider spirit
sponge spring square stable statue steady stream street string strong studio sudden summer sunset
supper supply switch symbol system tackle talent target temper temple tender tennis thanks theory
thirty throat ticket timber tomato tongue travel trophy tunnel turkey turtle twelve twenty unique
update useful vacuum valley velvet vessel violet violin visual volume voyage walnut wealth weekly
weight window winter wisdom wizard wonder wooden worker writer yellow yogurt zigzag account achieve
address advance airport alcohol almonds amazing anchovy ancient another anxiety apricot archive
arrival article athlete attempt average avocado balance balloon banking bargain battery bedroom
believe benefit between bicycle biscuit blanket blender blossom bouquet brother builder burning
cabbage cabinet caption capture caravan careful cartoon ceiling century ceramic chapter charity
chicken chimney citizen classic climate clothes cluster coconut collect college comfort command
company compare compass concept concert conduct contact content contest control cooking correct
costume cottage council counter country courage cricket crystal culture curious current curtain
cushion customs dancing decimal deliver density dentist deposit desktop dessert diagram diamond
digital dolphin drawing dynamic eastern economy edition elastic element emerald emperor engrave
evening example expense explain express factory fashion feather feature fiction fifteen figures
finance fishing fitness flowers foreign formula fortune forward freedom freezer freight furnace
gallery general genuine giraffe glasses grammar granite gravity grocery habitat hallway handbag
harvest heading healthy helpful herself highway history holiday horizon hundred hunting husband
iceberg imagine include initial install jasmine journal journey justice kingdom kitchen ladybug
landing lantern laundry leather lecture leisure lettuce library licence lighter lobster logical
machine manager mansion mapping mariner married maximum measure medical meeting message midweek
million mineral minimum missing mission mixture monster morning muffins mustard mystery natural
neither network nothing nuclear obvious october octopus offices opening orchard outside package
painter pancake panther parking partner passage patient pattern peacock pelican penguin perfect
phoenix picture pilgrim pioneer plastic popcorn popular postage pottery prepare present primary
printer privacy private problem process product program project promise protect provide pudding
pumpkin purpose pyramid quality quarter rainbow reading receipt recover reflect regular related
release request reserve respect restore reverse running sailing sandals satisfy scarlet science
section service seventh seventy shelter sheriff shuttle silence similar sixteen skating society
soldier spatula speaker special sponsor stadium station storage strange stretch student subject
success suggest support surface surgeon surplus teacher texture theater thermal thought thunder
tonight tourism tractor traffic trainer trouble trumpet typical unicorn uniform unusual upgrade
utility vaccine vanilla variety vehicle venture version village vinegar vintage visible visitor
vitamin volcano walking wallets warrior weather webcast website wedding weekend welcome western
whisper whistle willing without working writing absolute academic accident activity addition
aircraft airplane alphabet although aluminum ambition analysis anything aquarium armchair assembly
attitude audience baseball bathroom becoming birthday blizzard boundary building business calendar
campaign capacity cardinal carnival category ceremony champion chemical children cleaning clothing
collapse colorful comedian complete computer concrete conflict congress constant consumer contract
corridor creature cucumber currency customer cylinder database daughter deadline december decision
delicate delivery diagonal dialogue dinosaur diplomat director discount discover distance district
division document doorbell doughnut downtown duration dynamite earrings economic election electric
elephant elevator emission engineer enormous entirely entrance envelope equation estimate everyone
evidence exchange exercise explorer external fabulous familiar favorite february festival figurine
fireside flamingo football forecast frequent friendly function generous gigantic goldfish graduate
graphics greeting grounded guidance hardware headline heritage historic hospital identity industry
innocent inventor invoices kangaroo keyboard language latitude lavender learning lemonade limerick
location magazine magnetic majority marathon marriage material medicine medieval midnight military
minority moisture molecule momentum monument mortgage mosquito mountain mushroom musician national
negative neighbor notebook november numerous official omelette operator opposite ordinary organize
original outdoors overcome overlook painting pamphlet parallel passport password patience peaceful
personal physical platform pleasant politics porridge portable portrait position positive possible
postcard potatoes powerful practice precious pressure princess printing priority producer progress
property proposal province purchase quantity question railroad rational recorder recycled regional
relative reliable remember research resource response sandwich saturday schedule scissors security
sentence sequence shepherd shipment shopping shoulder sidewalk software solution southern spelling
squirrel standard straight strategy strength suitcase sunlight surprise surround swimming syllable
sympathy symphony teaspoon telegram terminal terrible textbook thirteen thousand thursday together
tomorrow tortoise training transfer treasure treaties triangle tropical turnover umbrella universe
vacation valuable vertical vineyard volcanic warranty watering weekdays wildlife wireless yearbook
yourself
"""

_PRINTED_ELSEWHERE = """
apple at ball banana bath beef bike bread cake camera chair corner cream day desk dog drama each
farm floor glass glue green key kite logic music mustard net no now october pen pepper real rope
row salad shirt shop skirt sport stove street table toast west wind wood
"""

_SPLIT = {
    length: Pool.split("word", tuple(word for word in _LIST.split() if len(word) == length))
    for length in range(2, 9)
}

HELD_BACK: frozenset[str] = frozenset(word for pool in _SPLIT.values() for word in pool.kept)
"""Words that are chosen for no picture of training."""

WORDS: dict[int, Pool[str]] = {
    length: Pool(
        pool.name,
        pool.seen,
        # Charts, receipts, screens and plans print some in training, too, so they show nothing new.
        tuple(word for word in pool.kept if word not in _PRINTED_ELSEWHERE.split()),
    )
    for length, pool in _SPLIT.items()
}
"""Common words by length, in lower case."""

MAX_LENGTH = 8
"""Most characters of a word or a number."""

_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CODE = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
_SINGLE = "ABDEFGHLMNQRTabdefghmnqrt"
_BOTH_CASES_ALIKE = frozenset("cosuvwxz")
_CONFUSABLE = ("rn", "vv", "nn", "cl", "ll")  # may pass for m, w, m, d, U


def set_case(rng: random.Random, word: str) -> str:
    """Put a word in capitals (one half), in lower case, or give it a capital at its beginning.

    Args:
        rng: source of chance.
        word: in lower case, at least two letters.
    """
    style = rng.random()
    if _BOTH_CASES_ALIKE.issuperset(word):
        style = 1.0  # only a capital beside small letters shows which is which
    if style < 0.5:
        return word.upper()
    # A capital I and a small l are one line in many fonts: no word begins with that capital alone.
    is_lower = style < 0.78 or word[0] == "i" or word[1:] == "l"  # nor ends with a lone l after one
    return word if is_lower else word.capitalize()


def choose_english(chance: Chance, length: int) -> str:
    """Choose a common word.

    Args:
        chance: the test alone has the kept ones.
        length: 2 to 8 letters.

    Returns:
        The word in lower case.
    """
    return chance.pick(WORDS[length])


def choose_word(chance: Chance, length: int) -> str:
    """Choose letters: half of the time a common word, else one that could be, or any letters.

    Args:
        chance: the test alone has the kept words.
        length: 1 to 8 letters.

    Returns:
        The word in capitals, in lower case, or with a capital at its beginning.
    """
    rng = chance.rng
    if length == 1:
        return rng.choice(_SINGLE)
    style = rng.random()
    if style < 0.5:
        return set_case(rng, choose_english(chance, length))
    while True:
        if style < 0.8:
            start = rng.randrange(2)
            word = "".join(
                rng.choice(_VOWELS if (start + place) % 2 else _CONSONANTS)
                for place in range(length)
            )
        else:
            word = "".join(rng.choices(_LETTERS, k=length))
        if word not in HELD_BACK and not any(pair in word for pair in _CONFUSABLE):
            return set_case(rng, word)


def choose_number(chance: Chance, length: int) -> str:
    """Choose a number: mostly plain digits, now and then a decimal, a negative, a price.

    Args:
        chance: an easy number has digits only.
        length: 1 to 8 characters, signs included.

    Returns:
        Text with at least one digit that no letter looks like.
    """
    rng = chance.rng
    style = rng.random() if chance.is_hard() else 1.0
    while True:
        if style < 0.12 and length >= 4:
            text = (
                f"${_digits(rng, length - 4)}.{_digits(rng, 2, '')}"
                if length > 4
                else f"${_digits(rng, 3)}"
            )
        elif style < 0.30 and length >= 3:
            after = rng.randint(1, min(3, length - 2))
            text = f"{_digits(rng, length - 1 - after)}.{_digits(rng, after, '')}"
        elif style < 0.42 and length >= 2:
            text = f"-{_digits(rng, length - 1)}"
        elif style < 0.48 and length >= 2:
            text = f"{_digits(rng, length - 1)}%"
        elif style < 0.54 and length in (5, 6, 7):
            text = f"{_digits(rng, length - 4)},{_digits(rng, 3, '')}"
        else:
            text = _digits(rng, length)
        if not set("23456789").isdisjoint(text):
            return text


def _digits(rng: random.Random, length: int, first: str = "123456789") -> str:
    text = "".join(rng.choices("0123456789", k=length))
    return rng.choice(first) + text[1:] if first else text


def choose_code(chance: Chance, length: int) -> str:
    """Choose capitals and digits, at least one of each, none of 0, O, 1 and I.

    Args:
        chance: source of chance.
        length: 2 to 8 characters.
    """
    while True:
        text = "".join(chance.rng.choices(_CODE, k=length))
        if not text.isdigit() and not text.isalpha():
            return text
