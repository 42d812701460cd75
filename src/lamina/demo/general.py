"""The guard suite: easy common knowledge and language sense, as hand-written multiple choice.

Each line is a question, then the right choice, then three wrong ones, split at bars.
"""

from __future__ import annotations

__all__ = ["ITEMS"]

_LINES = """
The opposite of hot is|cold|blue|loud|fast
The opposite of up is|down|green|round|slow
The opposite of day is|night|chair|water|paper
The opposite of happy is|sad|tall|wet|new
The opposite of big is|small|warm|sweet|late
The opposite of open is|closed|yellow|heavy|early
The opposite of young is|old|red|thin|wide
The opposite of left is|right|soft|cheap|bright
The opposite of empty is|full|kind|dry|sharp
The opposite of rich is|poor|flat|calm|deep
The capital of France is|Paris|Tokyo|Cairo|Lima
The capital of Japan is|Tokyo|Madrid|Oslo|Rome
The capital of Italy is|Rome|Berlin|Delhi|Paris
The capital of Germany is|Berlin|Athens|Dublin|Seoul
The capital of Spain is|Madrid|Vienna|London|Moscow
The capital of England is|London|Prague|Lisbon|Beijing
The capital of Russia is|Moscow|Warsaw|Havana|Rome
The capital of Egypt is|Cairo|Paris|Oslo|Tokyo
Grass is usually|green|purple|metal|loud
The sky on a clear day is|blue|brown|square|salty
Snow is|white|black|hot|noisy
Blood is|red|green|blue|dry
A banana is|yellow|grey|angry|iron
Coal is|black|pink|wet|sweet
The sun rises in the|east|kitchen|winter|ocean
Fish live in|water|trees|books|clouds
Birds fly with their|wings|teeth|ears|shoes
We see with our|eyes|knees|hands|hair
We hear with our|ears|feet|elbows|nails
We smell with our|nose|arms|back|heels
Bees make|honey|glass|bread|wool
Cows give|milk|wine|silk|ink
Hens lay|eggs|bricks|coins|stamps
Sheep give us|wool|petrol|sugar|salt
A baby dog is called a|puppy|kitten|calf|chick
A baby cat is called a|kitten|puppy|lamb|foal
A baby cow is called a|calf|cub|duckling|kitten
A frog starts life as a|tadpole|puppy|feather|seed
Spiders spin|webs|coins|songs|roads
A week has seven|days|months|hours|years
A year has twelve|months|weeks|days|minutes
An hour has sixty|minutes|days|weeks|years
Two plus two is|four|nine|twenty|one
Ten minus five is|five|twelve|thirty|eight
Three times three is|nine|two|fifty|four
Half of ten is|five|forty|nine|one
A triangle has three|sides|wheels|colours|doors
A square has four|sides|legs|names|seasons
Water freezes into|ice|sand|steel|wood
Boiling water turns into|steam|stone|milk|dust
Ice melts into|water|fire|metal|grass
Plants need sunlight and|water|shoes|paint|music
Trees grow from|seeds|coins|clouds|wires
Leaves fall in the|autumn|kitchen|morning|office
The season after winter is|spring|midnight|Monday|harvest
The coldest season is|winter|summer|noon|spring
The hottest season is|summer|winter|night|autumn
The day after Monday is|Tuesday|Friday|Sunday|January
The day before Sunday is|Saturday|Monday|Wednesday|March
The first month of the year is|January|July|October|Friday
The last month of the year is|December|April|June|Sunday
The Earth goes around the|Sun|Moon|cloud|river
The Moon goes around the|Earth|house|Sun|bridge
A doctor works in a|hospital|stable|mine|tent
A teacher works in a|school|boat|cave|barn
A farmer works on a|farm|ship|stage|roof
A pilot flies a|plane|horse|bus|chair
A baker bakes|bread|shoes|cars|books
A fireman puts out|fires|letters|songs|games
You read a|book|spoon|pillow|brick
You write with a|pen|plate|sock|door
You sleep in a|bed|cup|drawer|hat
You cut paper with|scissors|soup|socks|milk
You eat soup with a|spoon|comb|rope|book
You open a lock with a|key|leaf|cloud|sock
You wear shoes on your|feet|ears|hands|teeth
You wear a hat on your|head|knee|foot|elbow
You wear gloves on your|hands|ears|toes|eyes
When it rains you use an|umbrella|apple|engine|onion
When you are thirsty you|drink|sing|paint|count
When you are hungry you|eat|sleep|write|swim
When you are tired you|sleep|jump|cook|shout
One child, two|children|childs|childes|childer
One mouse, two|mice|mouses|mices|mousen
One foot, two|feet|foots|feets|footes
One tooth, two|teeth|tooths|toothes|teeths
Today I go, yesterday I|went|goed|gone|going
Today I eat, yesterday I|ate|eated|eats|eating
Today I see, yesterday I|saw|seed|sees|seeing
Today I run, yesterday I|ran|runned|runs|running
She has a dog and he|has a cat|have a cat|having a cat|haves a cat
They were late because the bus|broke down|broke up a song|is a spoon|were apples
He was so tired that he|fell asleep|fell a letter|ate the moon|grew a door
She studied hard, so she|passed the exam|drank the exam|boiled the chair|lost the sky
The glass fell on the floor and|broke|sang|flew|smiled
The dog wagged its|tail|wheel|paper|roof
He locked the door and put the key in his|pocket|soup|cloud|shadow
She lit the candle with a|match|fish|pillow|river
They crossed the river by|boat|spoon|lamp|stamp
The ship sailed across the|sea|desk|attic|forest
"""

ITEMS: tuple[tuple[str, tuple[str, str, str, str]], ...] = tuple(
    (question, (right, first, second, third))
    for question, right, first, second, third in (line.split("|") for line in _LINES.strip().splitlines())
)
